//! Decompression of blocks: zlib streams.

use instar_codec::Inflater;
use instar_image::{Error, Packed, Result, Unpacker};

/// Inflates.
pub struct CloopUnpacker {
    inflater: Inflater,
}

impl Default for CloopUnpacker {
    fn default() -> Self {
        Self { inflater: Inflater::zlib() }
    }
}

impl Unpacker for CloopUnpacker {
    fn unpack(&mut self, _packed: &Packed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.inflater.inflate_all(stored, out);
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(Error::malformed("Input/output error")) }
    }
}
