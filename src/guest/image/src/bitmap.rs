//! Persistent dirty bitmaps: what an image keeps of the parts of its disk that changed.

use alloc::vec::Vec;

use crate::Result;

/// One of them, without its bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyBitmap {
    /// Its name's bytes, as stored.
    pub name: Vec<u8>,
    /// A bit stands for so many bytes of the disk: a power of two.
    pub granularity_bits: u8,
    /// It follows every change of the disk.
    pub auto: bool,
    /// Its bits mean nothing: a program that kept it up did not end well.
    pub inconsistent: bool,
}

/// Takes dirty parts of the disk in rising order: first byte, and the one behind the last. They may touch.
pub type RunSink<'s> = &'s mut dyn FnMut(u64, u64) -> Result<()>;

/// The bitmaps of an open image.
pub trait Bitmaps {
    /// All of them, in their order in the image.
    fn list(&self) -> Vec<DirtyBitmap>;

    /// The dirty parts that bitmap number `index` tells of; whole granules, but for the end of the disk.
    fn runs(&self, index: usize, sink: RunSink<'_>) -> Result<()>;
}
