//! The raw format.
#![no_std]
#![forbid(unsafe_code)]
