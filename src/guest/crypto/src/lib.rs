//! What encrypted images are made of: ciphers and their modes, initialisation vectors, hashes, key derivation and the
//! anti-forensic splitter, over well-kept implementations of the primitives.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
