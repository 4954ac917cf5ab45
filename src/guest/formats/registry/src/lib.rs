//! The list of formats.
#![no_std]
#![forbid(unsafe_code)]
