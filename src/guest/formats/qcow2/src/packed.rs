//! Decompression of clusters.

use instar_codec::{Inflater, ZstdDecoder};
use instar_image::{Error, Packed, Result, Unpacker};

/// Whatever is wrong with a cluster, qemu-img calls it this.
fn bad() -> Error {
    Error::malformed("Input/output error")
}

/// Raw deflate. What follows the stream up to the end of its last sector is another cluster's.
#[derive(Default)]
pub struct ZlibUnpacker {
    inflater: Inflater,
}

impl Unpacker for ZlibUnpacker {
    fn unpack(&mut self, _packed: &Packed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.inflater.inflate(stored, out);
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(bad()) }
    }
}

/// One zstd frame.
#[derive(Default)]
pub struct ZstdUnpacker {
    decoder: ZstdDecoder,
}

impl Unpacker for ZstdUnpacker {
    fn unpack(&mut self, _packed: &Packed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.decoder.decode(stored, out);
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(bad()) }
    }
}
