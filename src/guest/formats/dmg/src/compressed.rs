//! Decompression of chunks.

use alloc::vec::Vec;

use instar_codec::{Bzip2Decoder, Inflater, adc_decode, lzfse_decode};
use instar_image::{Compressed, Decoder, Error, FileOffset, Result};

use crate::chunks::{Chunk, Chunks};
use crate::layout::{SECTOR, kind};

/// Knows by where a chunk is stored how it is compressed.
pub struct DmgDecoder {
    /// Offset, number of sectors and kind of the compressed chunks, ascending.
    kinds: Vec<(FileOffset, u32, u32)>,
    inflater: Option<Inflater>,
    bzip2: Bzip2Decoder,
}

impl DmgDecoder {
    /// For an image's chunks.
    pub fn new(chunks: &Chunks) -> Self {
        let compressed = |c: &&Chunk| c.is_compressed();
        let mut kinds: Vec<_> = chunks.iter().filter(compressed).map(|c| (c.offset, c.count as u32, c.kind)).collect();
        kinds.sort_unstable();
        Self { kinds, inflater: None, bzip2: Bzip2Decoder::default() }
    }

    fn kind(&self, compressed: &Compressed) -> Option<u32> {
        let place = (compressed.offset, (compressed.unit / SECTOR) as u32, 0);
        let first = self.kinds.partition_point(|known| *known < place);
        self.kinds.get(first).filter(|k| (k.0, k.1) == (place.0, place.1)).map(|k| k.2)
    }
}

impl Decoder for DmgDecoder {
    fn decompress(&mut self, compressed: &Compressed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = match self.kind(compressed) {
            Some(kind::ZLIB) => self.inflater.get_or_insert_with(Inflater::zlib).inflate_all(stored, out),
            Some(kind::BZIP2) => self.bzip2.decode(stored, out),
            Some(kind::LZFSE) => lzfse_decode(stored, out),
            Some(kind::ADC) => adc_decode(stored, out),
            _ => Ok(0),
        };
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(Error::malformed("Input/output error")) }
    }
}
