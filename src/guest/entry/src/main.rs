//! The guest ELF: parameters in, the operation, status out.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::ToString;

use instar_abi::ops::{self, Environment, Record};
use instar_abi::record::{self, Value};
use instar_entry::RingMachine;
use instar_entry::rt;

#[unsafe(no_mangle)]
fn guest_main(machine: &RingMachine) -> u8 {
    let (environment, params) = record::decode(rt::params())
        .map(ops::entries)
        .map_err(|error| format!("{error:?}"))
        .and_then(|mut entries| {
            let environment = Environment::take(&mut entries).map_err(|wrong| wrong.to_string())?;
            Ok((environment, Value::Map(entries)))
        })
        .unwrap_or_else(|why| panic!("the parameters do not decode: {why}"));
    machine.set_stock(environment.stock);
    machine.set_secrets(environment.secrets);
    instar_ops::run(machine, &params)
}
