//! What the two halves tell each other of each operation: one struct of parameters and one of results, written and read by
//! one codec ([`codec`]). A key of a tree stands here, and nowhere else.
//!
//! What an image's format says of itself (`format-specific`) is no contract but data: a tree that is printed as it comes.

use alloc::string::String;
use alloc::vec::Vec;

pub mod amend;
pub mod bench;
pub mod bitmap;
pub mod check;
pub mod codec;
pub mod commit;
pub mod compare;
pub mod convert;
pub mod create;
pub mod image;
pub mod info;
pub mod map;
pub mod measure;
pub mod option_help;
pub mod policy;
pub mod rebase;
pub mod resize;
pub mod snapshot;
#[cfg(test)]
mod tests;

use codec::{record, words};

pub use codec::{Entries, Record, Wrong};
pub use image::{BelowParams, GivenParams, ImageParams, Pair};

use crate::record::{Value, encode};

/// The parameters of an operation.
pub trait Operation: Record {
    /// What the guest is asked for.
    const NAME: &'static str;
    /// What it tells. A run that fails tells less.
    type Results: Record + Default;
    /// The exit status where an image cannot be opened.
    const UNOPENED: u8 = 1;

    /// The images that are named.
    fn images(&self) -> Vec<&ImageParams>;
}

record! {
    /// What every operation is told.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Caller {
        /// [`Operation::NAME`].
        pub operation: String = "op",
        /// The name that the program was called by.
        pub program: Option<String> = "program",
        /// The release whose behaviour it is: its first number.
        pub version_major: Option<u32> = "version-major",
        /// The second number of that release.
        pub version_minor: Option<u32> = "version-minor",
    }

    /// What the guest's machine is told, before an operation.
    #[derive(Default)]
    pub struct Environment {
        /// Everything has to be as with the stock tool.
        pub stock: bool = "stock",
        /// What `--object secret` gave.
        pub secrets: Vec<Secret> = "secrets",
    }

    /// A secret: no `Debug`, lest it be shown.
    pub struct Secret {
        /// Its name.
        pub id: String = "id",
        /// Its bytes.
        pub data: Vec<u8> = "data",
    }

    /// What every operation may tell.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Told {
        /// It failed.
        pub error: Option<Failure> = "error",
        /// What the user is to be warned of.
        pub warnings: Vec<Vec<u8>> = "warnings" or Vec::new(),
        /// The images of these names are going to be changed, and nobody said that they are raw; one a time that it is said.
        pub guessed_raw: Vec<Vec<u8>> = "guessed-raw" or Vec::new(),
    }

    /// An error.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Failure {
        /// What is said.
        pub message: Vec<u8> = "message",
        /// Of which kind it is.
        pub kind: FailureKind = "kind",
        /// What the stock tool's driver says before.
        pub earlier: Option<Vec<u8>> = "earlier",
        /// What the user can do.
        pub hint: Option<Vec<u8>> = "hint",
    }
}

words! {
    /// Kinds of errors.
    pub enum FailureKind {
        /// The system's.
        Io = "io",
        /// The image is no image.
        Malformed = "malformed",
        /// Not to be done with such an image.
        Unsupported = "unsupported",
        /// The image contradicts itself.
        Corrupt = "corrupt",
        /// More than there may be.
        Limit = "limit",
        /// The policy does not allow a name.
        Refused = "refused",
        /// A chain that has no end.
        Loop = "loop",
        /// What the user wants makes no sense.
        Usage = "usage",
    }
}

/// The stream of a map's keys, as [`crate::record::decode`] takes it apart.
#[must_use]
pub fn stream(entries: &Entries) -> Vec<u8> {
    let mut stream = Vec::new();
    for (key, value) in entries {
        encode(&mut stream, key, value);
    }
    stream
}

/// The keys of a stream's tree.
#[must_use]
pub fn entries(tree: Value) -> Entries {
    match tree {
        Value::Map(entries) => entries,
        _ => Entries::new(),
    }
}
