//! Decompression of clusters.

use instar_codec::{Inflater, ZstdDecoder};
use instar_image::{Compressed, Decoder, Error, Result};

/// Whatever is wrong with a cluster, qemu-img calls it this.
fn bad() -> Error {
    Error::malformed("Input/output error")
}

/// Raw deflate. What follows the stream up to the end of its last sector is another cluster's.
#[derive(Default)]
pub struct ZlibClusterDecoder {
    inflater: Inflater,
}

impl Decoder for ZlibClusterDecoder {
    fn decompress(&mut self, _compressed: &Compressed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.inflater.inflate(stored, out);
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(bad()) }
    }
}

/// One zstd frame.
#[derive(Default)]
pub struct ZstdClusterDecoder {
    decoder: ZstdDecoder,
}

impl Decoder for ZstdClusterDecoder {
    fn decompress(&mut self, _compressed: &Compressed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.decoder.decode(stored, out);
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(bad()) }
    }
}
