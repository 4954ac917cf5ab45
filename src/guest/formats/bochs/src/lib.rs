//! The bochs format.
#![no_std]
#![forbid(unsafe_code)]
