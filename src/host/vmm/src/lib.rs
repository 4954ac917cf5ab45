//! The host half: it opens files, runs the guest, checks every request, and moves bytes. It never looks
//! at what the bytes of an image mean, and nothing under `src/guest` is linked into it (a test asserts that).
//!
//! [`run`] is the whole interface: a [`Job`] in, an [`Outcome`] or a [`Failure`] out.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod backend;
pub mod build;
pub mod clock;
mod cpuid;
pub mod device;
mod elf;
mod guest;
pub mod job;
mod layout;
pub mod limits;
mod links;
mod lockdown;
pub mod locks;
pub mod medium;
mod memory;
mod page_tables;
pub mod policy;
mod probe;
mod proc;
mod run;
mod secret;
mod server;
pub mod standard;
pub mod target;

pub use device::{Device, Mode};
pub use job::{Failure, Isolation, Job, LastWords, Observer, Outcome, progress_asked};
pub use limits::Limits;
pub use lockdown::hide;
pub use policy::{Parts, Policy};
pub use probe::{Capabilities, Trial, attempt, probe};
pub use run::run;
pub use secret::{Secret, Wiping};
