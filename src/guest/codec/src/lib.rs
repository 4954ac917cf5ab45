//! Compression, both ways, with every output bounded by its caller.
//!
//! Each type holds the state of one direction of one codec and is used again and again by one worker: the large
//! allocations are made once.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod deflate;
mod zstd;

pub use deflate::{Deflater, Inflater};
pub use zstd::{ZstdDecoder, ZstdEncoder};

use instar_image::Error;

/// What is said of compressed bytes that are none.
fn broken(codec: &str) -> Error {
    Error::malformed(alloc::format!("invalid {codec} data"))
}
