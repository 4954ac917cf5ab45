//! Compressing clusters.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_codec::{Deflater, ZstdEncoder};
use instar_image::Result;
use instar_image::write::Compressor;

/// A worker's own, for zstd or for zlib.
pub fn compressor(zstd: bool) -> Box<dyn Compressor> {
    if zstd {
        Box::new(ZstdCompressor(ZstdEncoder::new(3)))
    } else {
        Box::new(ZlibCompressor(Deflater::new(ZLIB_LEVEL, 12)))
    }
}

/// The library's own level 6 trades size for speed; this one's output is as small as stock zlib's at its level 6.
const ZLIB_LEVEL: i32 = 7;

/// Deflate without a header, with the 4 KiB window that every reader of qcow2 allows for.
struct ZlibCompressor(Deflater);

impl Compressor for ZlibCompressor {
    fn compress(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        Ok(self.0.deflate(unit, out, unit.len().saturating_sub(1)))
    }
}

struct ZstdCompressor(ZstdEncoder);

impl Compressor for ZstdCompressor {
    fn compress(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        Ok(self.0.encode(unit, out, unit.len().saturating_sub(1)))
    }
}
