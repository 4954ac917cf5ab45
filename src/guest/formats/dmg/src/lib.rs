//! The dmg format.
#![no_std]
#![forbid(unsafe_code)]
