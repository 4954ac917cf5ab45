//! Compressing grains: every one of them, for there are no others in such an image.

use alloc::vec;
use alloc::vec::Vec;

use instar_codec::Deflater;
use instar_image::write::Compressor;
use instar_image::{Error, Result};

use super::grains::GRAIN;

/// The library's own level 6 trades size for speed.
const LEVEL: i32 = 7;

/// Compresses grains.
pub struct GrainCompressor {
    deflater: Deflater,
    /// For what does not get smaller.
    storer: Deflater,
    whole: Vec<u8>,
}

impl GrainCompressor {
    pub fn new() -> Self {
        Self { deflater: Deflater::zlib(LEVEL), storer: Deflater::zlib(0), whole: vec![0; GRAIN as usize] }
    }
}

impl Compressor for GrainCompressor {
    fn compress(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let mut unit = unit;
        if let Some((there, rest)) = self.whole.split_at_mut_checked(unit.len()).filter(|(_, rest)| !rest.is_empty()) {
            there.copy_from_slice(unit);
            rest.fill(0);
            unit = &self.whole;
        }
        if self.deflater.deflate(unit, out, unit.len()) || self.storer.deflate_any(unit, out, 2 * unit.len()) {
            return Ok(true);
        }
        Err(Error::corrupt("a grain could not be stored"))
    }
}
