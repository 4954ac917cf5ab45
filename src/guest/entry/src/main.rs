//! The guest ELF: parameters in, the operation, status out.
#![no_std]
#![no_main]

use instar_abi::record;
use instar_entry::RingMachine;
use instar_entry::rt;

#[unsafe(no_mangle)]
fn guest_main(machine: &RingMachine) -> u8 {
    match record::decode(rt::params()) {
        Ok(params) => {
            machine.set_stock(params.flag("stock"));
            machine.set_secrets(params.list("secrets"));
            instar_ops::run(machine, &params)
        }
        Err(error) => panic!("the parameters do not decode: {error:?}"),
    }
}
