//! The operations, each written once against the traits of `instar_image`.
//!
//! [`run`] is the whole interface: the command's parameters in, records and an exit status out. An operation is
//! a module here with a `run` of its own, and one line in [`OPERATIONS`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod amend;
pub mod bench;
pub mod bitmap;
pub mod check;
pub mod commit;
pub mod compare;
pub mod convert;
mod copy;
pub mod create;
pub mod disk;
mod guessed;
pub mod info;
pub mod map;
pub mod measure;
mod names;
mod nested;
pub mod open;
mod option_help;
pub mod rebase;
pub mod resize;
pub mod snapshot;
mod stored;
mod told;

use alloc::format;

use instar_abi::ops::{self as contract, Caller, Entries, Operation, Record};
use instar_image::{Error, Machine, Result, Value, Version};

/// An operation: parameters in, exit status out; what it finds it tells.
type Start = fn(&dyn Machine, Entries, &Caller) -> Result<u8>;

const OPERATIONS: &[(&str, Start)] = &[
    (contract::info::Info::NAME, |m, entries, by| start(m, entries, by, &info::run)),
    (contract::convert::Convert::NAME, |m, entries, by| {
        start(m, entries, by, &|m, params, version| convert::run(m, params, program(by), version))
    }),
    (contract::create::Create::NAME, |m, entries, by| start(m, entries, by, &create::run)),
    (contract::option_help::OptionHelp::NAME, |m, entries, by| start(m, entries, by, &option_help::run)),
    (contract::rebase::Rebase::NAME, |m, entries, by| start(m, entries, by, &rebase::run)),
    (contract::commit::Commit::NAME, |m, entries, by| start(m, entries, by, &commit::run)),
    (contract::resize::Resize::NAME, |m, entries, by| start(m, entries, by, &resize::run)),
    (contract::amend::Amend::NAME, |m, entries, by| start(m, entries, by, &amend::run)),
    (contract::snapshot::Snapshot::NAME, |m, entries, by| start(m, entries, by, &snapshot::run)),
    (contract::map::Map::NAME, |m, entries, by| start(m, entries, by, &map::run)),
    (contract::compare::Compare::NAME, |m, entries, by| start(m, entries, by, &compare::run)),
    (contract::measure::Measure::NAME, |m, entries, by| start(m, entries, by, &measure::run)),
    (contract::check::Check::NAME, |m, entries, by| {
        start(m, entries, by, &|m, params, version| check::run(m, params, program(by), version))
    }),
    (contract::bitmap::Bitmap::NAME, |m, entries, by| start(m, entries, by, &bitmap::run)),
    (contract::bench::Bench::NAME, |m, entries, by| start(m, entries, by, &bench::run)),
    (contract::policy::Policy::NAME, |m, entries, by| start(m, entries, by, &names::run)),
];

/// Runs the operation that `params` names. What fails is told, and gives exit status 1.
pub fn run(machine: &dyn Machine, params: &Value) -> u8 {
    dispatch(machine, contract::entries(params.clone())).unwrap_or_else(|error| {
        // Where even this cannot be said, the exit status alone has to tell.
        let _ = told::fail(machine, error);
        1
    })
}

fn dispatch(machine: &dyn Machine, mut entries: Entries) -> Result<u8> {
    let by = Caller::take(&mut entries).map_err(|wrong| Error::usage(format!("no operation: {wrong}")))?;
    let (_, start) = OPERATIONS
        .iter()
        .find(|(name, _)| *name == by.operation)
        .ok_or_else(|| Error::usage(format!("no such operation in the guest: '{}'", by.operation)))?;
    start(machine, entries, &by)
}

/// Runs `body` with the operation's parameters, and all devices that its images are in.
fn start<O: Operation>(
    machine: &dyn Machine,
    entries: Entries,
    by: &Caller,
    body: &dyn Fn(&dyn Machine, &O, Version) -> Result<u8>,
) -> Result<u8> {
    let version = match (by.version_major, by.version_minor) {
        (Some(major), Some(minor)) => Version::of(major, minor),
        _ => Version::default(),
    };
    let params = O::from_entries(entries)
        .map_err(|wrong| Error::usage(format!("the parameters of '{}' do not fit: {wrong}", O::NAME)))?;
    nested::with(machine, &params.images(), version, &|machine| body(machine, &params, version)).or_else(|error| {
        told::fail(machine, error)?;
        Ok(O::UNOPENED)
    })
}

/// The name that the program was called by.
fn program(by: &Caller) -> &str {
    by.program.as_deref().unwrap_or("qemu-img")
}
