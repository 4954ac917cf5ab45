//! What an operation tells the host: a record for each key of its results.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use instar_abi::ops::{Failure, FailureKind, Record, Told};
use instar_image::{Error, Kind, Machine, Result};

/// Tells results, or a part of them.
pub fn tell(machine: &dyn Machine, results: impl Record) -> Result<()> {
    results.into_entries().iter().try_for_each(|(key, value)| machine.emit(key, value))
}

/// Tells what the user is to be warned of.
pub fn warn(machine: &dyn Machine, warnings: Vec<String>) -> Result<()> {
    let warnings = warnings.into_iter().map(String::into_bytes).collect();
    tell(machine, Told { warnings, ..Told::default() })
}

/// Tells that the image of that name is going to be changed, and nobody said that it is raw.
pub fn guessed_raw(machine: &dyn Machine, name: &[u8]) -> Result<()> {
    tell(machine, Told { guessed_raw: Vec::from([name.to_vec()]), ..Told::default() })
}

/// Tells what the operation ends with.
pub fn fail(machine: &dyn Machine, error: Error) -> Result<()> {
    tell(machine, Told { error: Some(failure(error)), ..Told::default() })
}

/// An error as the host reads it.
pub fn failure(error: Error) -> Failure {
    let kind = match error.kind {
        Kind::Io(_) => FailureKind::Io,
        Kind::Malformed => FailureKind::Malformed,
        Kind::Unsupported => FailureKind::Unsupported,
        Kind::Corrupt => FailureKind::Corrupt,
        Kind::Limit => FailureKind::Limit,
        Kind::Refused => FailureKind::Refused,
        Kind::Loop => FailureKind::Loop,
        Kind::Usage => FailureKind::Usage,
    };
    let bytes = |text: Box<str>| String::from(text).into_bytes();
    Failure {
        message: error.message.into_bytes(),
        kind,
        earlier: error.earlier.map(bytes),
        hint: error.hint.map(bytes),
    }
}
