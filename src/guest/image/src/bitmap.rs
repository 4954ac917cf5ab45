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

/// What changes the persistent bitmaps of an image. The disk is not looked at, and nothing of it may have been placed.
///
/// What is changed is in the image when it is [`store`](Self::store)d, all of it at once: a run that is cut leaves all
/// bitmaps as they were, or all as they were wanted. Each is asked for by its name; those that are not there are an error.
pub trait BitmapEditor {
    /// Whether the image can have any.
    fn check_supported(&self) -> Result<()>;

    /// They, as they are by now.
    fn list(&self) -> Vec<DirtyBitmap>;

    /// Adds one, without a bit set. There is none of that name.
    fn add(&self, bitmap: &DirtyBitmap) -> Result<()>;

    /// Gives one up, inconsistent or not.
    fn remove(&self, name: &[u8]) -> Result<()>;

    /// Clears all bits of one that is not inconsistent.
    fn clear(&self, name: &[u8]) -> Result<()>;

    /// Makes one follow the changes of the disk, or not.
    fn set_auto(&self, name: &[u8], auto: bool) -> Result<()>;

    /// Sets the bits of what bitmap number `index` of `from` tells of, which is another one, of a disk of the same size. Both
    /// are not inconsistent.
    fn merge(&self, name: &[u8], from: &dyn Bitmaps, index: usize) -> Result<()>;

    /// Makes what was changed part of the image, and stable.
    fn store(&self) -> Result<()>;
}
