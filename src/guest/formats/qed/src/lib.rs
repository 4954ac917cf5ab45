//! The qed format.
#![no_std]
#![forbid(unsafe_code)]
