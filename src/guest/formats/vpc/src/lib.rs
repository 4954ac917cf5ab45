//! The vpc format.
#![no_std]
#![forbid(unsafe_code)]
