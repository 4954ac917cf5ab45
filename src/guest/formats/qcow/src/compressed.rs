//! Decompression of clusters.

use instar_codec::Inflater;
use instar_image::{Compressed, Decoder, Error, Result};

/// Raw deflate.
#[derive(Default)]
pub struct QcowDecoder {
    inflater: Inflater,
}

impl Decoder for QcowDecoder {
    fn decompress(&mut self, _compressed: &Compressed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.inflater.inflate(stored, out);
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(Error::malformed("Input/output error")) }
    }
}
