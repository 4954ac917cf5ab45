//! The vdi format.
#![no_std]
#![forbid(unsafe_code)]
