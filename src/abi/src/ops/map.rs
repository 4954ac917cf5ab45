//! `map`. What it tells is too much for a tree: records of fixed size, after a first piece that names the files (a NUL
//! between two).

use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};

record! {
    /// What is mapped.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Map {
        /// The image.
        pub image: ImageParams = "image",
        /// The first byte of the disk.
        pub start: u64 = "start" or 0,
        /// At most so many bytes of it.
        pub length: Option<u64> = "length",
    }
}

impl Operation for Map {
    const NAME: &'static str = "map";
    type Results = ();

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into()
    }
}

/// It is in a layer of the chain.
pub const PRESENT: u16 = 1;
/// It reads as zeroes.
pub const ZERO: u16 = 1 << 1;
/// It is stored.
pub const DATA: u16 = 1 << 2;
/// Stored compressed.
pub const COMPRESSED: u16 = 1 << 3;
/// It has a plain place in a file.
pub const HAS_OFFSET: u16 = 1 << 4;

/// A range of the disk that is stored in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapRecord {
    /// Its first byte.
    pub start: u64,
    /// Its length.
    pub len: u64,
    /// Its place in the file, where it has one.
    pub offset: u64,
    /// The layer that it is in.
    pub depth: u32,
    /// [`PRESENT`] and the others.
    pub bits: u16,
    /// The number of the file.
    pub file: u16,
}

impl MapRecord {
    /// Bytes of a record: the fields in their order, little-endian.
    pub const LEN: usize = 32;

    /// As bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let last = self.depth as u64 | (self.bits as u64) << 32 | (self.file as u64) << 48;
        let words = [self.start.to_le_bytes(), self.len.to_le_bytes(), self.offset.to_le_bytes(), last.to_le_bytes()];
        zerocopy::transmute!(words)
    }

    /// From bytes, whatever they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [start, len, offset, last]: [[u8; 8]; 4] = zerocopy::transmute!(bytes);
        let last = u64::from_le_bytes(last);
        Self {
            start: u64::from_le_bytes(start),
            len: u64::from_le_bytes(len),
            offset: u64::from_le_bytes(offset),
            depth: last as u32,
            bits: (last >> 32) as u16,
            file: (last >> 48) as u16,
        }
    }

    /// Whether it has any of these bits.
    #[must_use]
    pub const fn has(&self, bits: u16) -> bool {
        self.bits & bits != 0
    }
}
