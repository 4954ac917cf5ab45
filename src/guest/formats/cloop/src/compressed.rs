//! Decompression of blocks: zlib streams.

use instar_codec::Inflater;
use instar_image::{Compressed, Decoder, Error, Result};

/// Inflates.
pub struct CloopDecoder {
    inflater: Inflater,
}

impl Default for CloopDecoder {
    fn default() -> Self {
        Self { inflater: Inflater::zlib() }
    }
}

impl Decoder for CloopDecoder {
    fn decompress(&mut self, _compressed: &Compressed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.inflater.inflate_all(stored, out);
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(Error::malformed("Input/output error")) }
    }
}
