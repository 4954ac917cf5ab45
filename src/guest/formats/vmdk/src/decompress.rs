//! Compressed grains.

use instar_codec::Inflater;
use instar_image::reader::Reader;
use instar_image::{Compressed, Decoder, Error, Kind, Result};

use crate::layout::MARKER;

/// Decompresses grains of one image.
pub struct GrainDecoder {
    inflater: Inflater,
    /// Each begins with a marker that says how long it is.
    markers: bool,
}

impl GrainDecoder {
    /// For grains with or without markers.
    pub fn new(markers: bool) -> Self {
        Self { inflater: Inflater::zlib(), markers }
    }
}

impl Decoder for GrainDecoder {
    fn decompress(&mut self, _compressed: &Compressed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let mut data = stored;
        if self.markers {
            let len = Reader::new(stored).le32(8)? as usize;
            data = stored.get(MARKER..).and_then(|rest| rest.get(..len)).ok_or_else(damaged)?;
        }
        // What decompresses to less than its grain is damaged: nobody knows what the rest was.
        let len = self.inflater.inflate(data, out).map_err(|_| damaged())?;
        if len == out.len() { Ok(()) } else { Err(damaged()) }
    }
}

/// The stock tool's words for whatever is wrong with a compressed grain.
fn damaged() -> Error {
    const EINVAL: u32 = 22;
    Error::new(Kind::Io(EINVAL), "Invalid argument")
}
