//! The cloop format.
#![no_std]
#![forbid(unsafe_code)]
