//! The vmdk format.
#![no_std]
#![forbid(unsafe_code)]
