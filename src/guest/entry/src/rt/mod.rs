//! What makes a program of it.

mod allocator;
mod libc;
mod memory;
mod panic;
mod start;

pub use start::{boot, machine, params};
