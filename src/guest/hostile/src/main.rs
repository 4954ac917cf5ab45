//! The hostile guest: does what the parameter `case` names.
#![no_std]
#![no_main]

use instar_abi::record;
use instar_entry::{RingMachine, rt};

#[unsafe(no_mangle)]
fn guest_main(machine: &RingMachine) -> u8 {
    let params = record::decode(rt::params()).expect("the trial sends a record stream");
    let boot = rt::boot().expect("the machine stands, so the boot page does");
    // Only where nobody else says it: reading what a device holds has consequences.
    let line =
        if params.get("case").is_some() { Default::default() } else { instar_hostile::first_line(machine, boot) };
    let name = params.text("case").or_else(|| instar_hostile::case_of(&line)).expect("somebody names a case");
    match instar_hostile::CASES.iter().find(|(n, _)| *n == name) {
        Some((_, case)) => case(machine, boot),
        None => panic!("no case '{name}'"),
    }
}
