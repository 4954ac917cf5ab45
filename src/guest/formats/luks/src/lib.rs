//! The luks format.
#![no_std]
#![forbid(unsafe_code)]
