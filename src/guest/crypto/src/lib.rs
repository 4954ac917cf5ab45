//! What encrypted images are made of: ciphers and their modes, initialisation vectors, hashes, key derivation and the
//! anti-forensic splitter, over well-kept implementations of the primitives.
//!
//! Keys are wiped when they are dropped. Processor features (AES, VAES, SHA) are found out at run time by the
//! primitives themselves.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod af;
mod blocks;
pub mod hash;
pub mod kdf;
pub mod luks;
mod modes;
mod named;
pub mod qcow;
pub mod scheme;

pub use hash::Hash;
pub use scheme::{Algorithm, Crypter, IvGenerator, Mode, Scheme};
pub use zeroize::{Zeroize, Zeroizing};
