//! Results to text and JSON, as each version of qemu-img prints them. Knows the structs of the contract ([`instar_abi::ops`])
//! and no format: what is specific to one is a tree that is printed as it comes.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod behind;
mod bounded;
mod check;
pub mod compare;
pub mod escape;
mod human;
mod json;
pub mod map;
pub mod order;
pub mod size;
mod snapshots;
pub mod version;

pub use behind::unfold;
pub use bounded::{Bounded, Over, Pieces};
pub use check::{check as check_human, repaired};
pub use human::{LocalTime, info as info_human};
pub use json::{InfoJson, line as json_line, print as json, write as write_json};
pub use snapshots::table as snapshot_table;
pub use version::QemuVersion;
