//! Compression, both ways, with every output bounded by its caller.
//!
//! Each type holds the state of one direction of one codec and is used again and again by one worker: the large
//! allocations are made once.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod adc;
mod bzip2;
mod deflate;
mod lzfse;
mod zstd;

pub use adc::adc_decode;
pub use bzip2::Bzip2Decoder;
pub use deflate::{Deflater, Inflater};
pub use lzfse::lzfse_decode;
pub use zstd::{ZstdDecoder, ZstdEncoder};

use instar_image::Error;

/// What is said of compressed bytes that are none.
fn broken(codec: &str) -> Error {
    Error::malformed(alloc::format!("invalid {codec} data"))
}

/// Copies `len` bytes from `distance` before `to` to `to`, one after another: they may overlap. `None`: from before the
/// beginning, or past the end.
fn copy_match(dst: &mut [u8], to: usize, distance: usize, len: usize) -> Option<()> {
    let from = to.checked_sub(distance).filter(|_| distance > 0)?;
    let area = dst.get_mut(from..to.checked_add(len)?)?;
    if distance >= len {
        area.copy_within(..len, distance);
    } else {
        for i in 0..len {
            area[i + distance] = area[i];
        }
    }
    Some(())
}
