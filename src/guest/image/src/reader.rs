//! Bounds-checked reading of on-disk structures.

use crate::{Error, Result};

/// A view of bytes from an image. Every access is checked; a short view is an error, never a panic.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

macro_rules! field {
    ($($name:ident: $ty:ty = $from:ident;)+) => { $(
        #[doc = concat!("The `", stringify!($ty), "` at byte `at`, by `", stringify!($from), "`.")]
        pub fn $name(&self, at: usize) -> Result<$ty> {
            Ok(<$ty>::$from(self.array(at)?))
        }
    )+ };
}

impl<'a> Reader<'a> {
    /// A view of all of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Length of the view.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// `len` bytes from `at` on.
    pub fn bytes(&self, at: usize, len: usize) -> Result<&'a [u8]> {
        at.checked_add(len)
            .and_then(|end| self.bytes.get(at..end))
            .ok_or_else(|| Error::malformed("structure is cut short"))
    }

    /// `N` bytes from `at` on.
    pub fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .ok_or_else(|| Error::malformed("structure is cut short"))
    }

    field! {
        be16: u16 = from_be_bytes;
        be32: u32 = from_be_bytes;
        be64: u64 = from_be_bytes;
        le16: u16 = from_le_bytes;
        le32: u32 = from_le_bytes;
        le64: u64 = from_le_bytes;
    }

    /// The byte at `at`.
    pub fn u8(&self, at: usize) -> Result<u8> {
        self.array::<1>(at).map(|[b]| b)
    }
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Words first: the compiler makes vector code of the fixed-size chunks.
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|c| c.iter().fold(0u8, |acc, b| acc | b) == 0) && rest.iter().all(|b| *b == 0)
}
