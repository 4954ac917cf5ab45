//! Compressing clusters.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_codec::{Deflater, ZstdEncoder};
use instar_image::Result;
use instar_image::write::Packer;

/// A worker's own, for zstd or for zlib.
pub fn packer(zstd: bool) -> Box<dyn Packer> {
    if zstd { Box::new(ZstdPacker(ZstdEncoder::new(3))) } else { Box::new(ZlibPacker(Deflater::new(ZLIB_LEVEL, 12))) }
}

/// The library's own level 6 trades size for speed; this one's output is as small as stock zlib's at its level 6.
const ZLIB_LEVEL: i32 = 7;

/// Deflate without a header, with the 4 KiB window that every reader of qcow2 allows for.
struct ZlibPacker(Deflater);

impl Packer for ZlibPacker {
    fn pack(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        Ok(self.0.deflate(unit, out, unit.len().saturating_sub(1)))
    }
}

struct ZstdPacker(ZstdEncoder);

impl Packer for ZstdPacker {
    fn pack(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        Ok(self.0.encode(unit, out, unit.len().saturating_sub(1)))
    }
}
