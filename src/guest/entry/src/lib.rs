//! The guest's run time: start, allocator, panic, memory functions, the ring client, and the dispatch to the
//! operations. The only crate of the guest half with `unsafe` code.
//!
//! As a library it is compiled and linted like any other; the parts that make a program of it (`rt`) come with
//! the feature `elf`, which only the guest builds turn on.
#![no_std]

extern crate alloc;

pub mod failure;
pub mod machine;
pub mod ring;
#[cfg(feature = "elf")]
pub mod rt;
pub mod workers;

pub use machine::RingMachine;
