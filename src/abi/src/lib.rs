//! The wire between the two halves of instar, shared by both and by nothing else.
//!
//! The guest (untrusted: it runs the code that parses images) talks to the host (trusted: it owns
//! the files) through three things only, all defined here:
//!
//! - [`boot::BootInfo`], one page that the host fills before the first guest instruction;
//! - [`ring::Ring`], one per guest worker: a batch of fixed-size [`ring::Request`]s and their
//!   [`ring::Reply`]s, submitted by one doorbell;
//! - [`ops`], the structs in which an operation's parameters go in and its results come out, as trees ([`record`]).
//!
//! Every struct is little-endian, fixed-size and checked for layout at compile time. The host copies a
//! request out of shared memory before it looks at it, and believes nothing in it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod beside;
pub mod boot;
pub mod drivers;
pub mod ops;
pub mod record;
pub mod ring;

/// Version of everything in this crate. The host refuses a guest ELF built for another one.
pub const ABI_VERSION: u32 = 3;
