//! The vhdx format.
#![no_std]
#![forbid(unsafe_code)]
