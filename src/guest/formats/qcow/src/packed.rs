//! Decompression of clusters.

use instar_codec::Inflater;
use instar_image::{Error, Packed, Result, Unpacker};

/// Raw deflate.
#[derive(Default)]
pub struct QcowUnpacker {
    inflater: Inflater,
}

impl Unpacker for QcowUnpacker {
    fn unpack(&mut self, _packed: &Packed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.inflater.inflate(stored, out);
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(Error::malformed("Input/output error")) }
    }
}
