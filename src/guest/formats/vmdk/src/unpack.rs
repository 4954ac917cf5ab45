//! Compressed grains.

use instar_codec::Inflater;
use instar_image::reader::Reader;
use instar_image::{Error, Kind, Packed, Result, Unpacker};

use crate::layout::MARKER;

/// Decompresses grains of one image.
pub struct GrainUnpacker {
    inflater: Inflater,
    /// Each begins with a marker that says how long it is.
    markers: bool,
}

impl GrainUnpacker {
    /// For grains with or without markers.
    pub fn new(markers: bool) -> Self {
        Self { inflater: Inflater::zlib(), markers }
    }
}

impl Unpacker for GrainUnpacker {
    fn unpack(&mut self, _packed: &Packed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let mut data = stored;
        if self.markers {
            let len = Reader::new(stored).le32(8)? as usize;
            data = stored.get(MARKER..).and_then(|rest| rest.get(..len)).ok_or_else(damaged)?;
        }
        // What unpacks to less than its grain is damaged: nobody knows what the rest was.
        let len = self.inflater.inflate(data, out).map_err(|_| damaged())?;
        if len == out.len() { Ok(()) } else { Err(damaged()) }
    }
}

/// The stock tool's words for whatever is wrong with a compressed grain.
fn damaged() -> Error {
    const EINVAL: u32 = 22;
    Error::new(Kind::Io(EINVAL), "Invalid argument")
}
