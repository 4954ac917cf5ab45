//! The operations, each written once against the traits of `instar_image`.
//!
//! [`run`] is the whole interface: the command's parameters in, records and an exit status out. An operation is
//! a module here with a `run` of its own, and one line in [`OPERATIONS`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bench;
pub mod check;
pub mod commit;
pub mod compare;
pub mod convert;
mod copy;
pub mod create;
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
mod stored;

use instar_image::{Error, Kind, Machine, Result, Value, Version};

/// An operation: parameters in, exit status out; what it finds it emits.
type Operation = fn(&dyn Machine, &Value, Version) -> Result<u8>;

const OPERATIONS: &[(&str, Operation)] = &[
    ("info", info::run),
    ("convert", convert::run),
    ("dd", convert::run),
    ("create", create::run),
    ("rebase", rebase::run),
    ("commit", commit::run),
    ("resize", resize::run),
    ("map", map::run),
    ("compare", compare::run),
    ("measure", measure::run),
    ("check", check::run),
    ("bench", bench::run),
    ("policy", names::run),
];

/// Runs the operation that `params` names. Failures are emitted as the record `error` and give exit status 1.
pub fn run(machine: &dyn Machine, params: &Value) -> u8 {
    dispatch(machine, params).unwrap_or_else(|error| {
        // Where even this cannot be said, the exit status alone has to tell.
        let _ = machine.emit("error", &report(&error));
        1
    })
}

fn dispatch(machine: &dyn Machine, params: &Value) -> Result<u8> {
    let version = |key| params.u64(key).and_then(|n| u32::try_from(n).ok());
    let version = match (version("version-major"), version("version-minor")) {
        (Some(major), Some(minor)) => Version::of(major, minor),
        _ => Version::default(),
    };
    let name = params.text("op").unwrap_or_default();
    let (_, operation) = OPERATIONS
        .iter()
        .find(|(n, _)| *n == name)
        .ok_or_else(|| Error::usage(alloc::format!("no such operation in the guest: '{name}'")))?;
    nested::with(machine, params, version, &|machine| operation(machine, params, version))
}

/// An error as the host reads it.
pub(crate) fn report(error: &Error) -> Value {
    let kind = match error.kind {
        Kind::Io(_) => "io",
        Kind::Malformed => "malformed",
        Kind::Unsupported => "unsupported",
        Kind::Corrupt => "corrupt",
        Kind::Limit => "limit",
        Kind::Refused => "refused",
        Kind::Loop => "loop",
        Kind::Usage => "usage",
    };
    let mut record = Value::map();
    record.set("message", error.message.as_str()).set("kind", kind);
    if let Some(earlier) = &error.earlier {
        record.set("earlier", earlier.as_str());
    }
    if let Some(hint) = &error.hint {
        record.set("hint", hint.as_str());
    }
    record
}
