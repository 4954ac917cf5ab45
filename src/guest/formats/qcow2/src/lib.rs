//! The qcow2 format.
#![no_std]
#![forbid(unsafe_code)]
