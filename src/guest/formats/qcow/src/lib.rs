//! The qcow format.
#![no_std]
#![forbid(unsafe_code)]
