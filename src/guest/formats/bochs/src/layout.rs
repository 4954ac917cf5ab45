//! Where things are in a growing image, and what its numbers mean. All numbers are little-endian.
//!
//! Source: the Bochs documentation, "Disk images", and the structure `redolog_t` that it describes; QEMU where that is
//! silent.

/// What a file begins with, ended by a zero byte.
pub const MAGIC: &[u8] = b"Bochs Virtual HD Image\0";
/// Byte offset and bytes of the kind, ended by a zero byte.
pub const KIND: (usize, &[u8]) = (32, b"Redolog\0");
/// The same of the sub-kind.
pub const SUBKIND: (usize, &[u8]) = (48, b"Growing\0");
/// The version whose header has the disk's size right behind the extent's.
pub const VERSION_1: u32 = 0x1_0000;
/// The version that has a time stamp between the two.
pub const VERSION_2: u32 = 0x2_0000;
/// Bytes of the header that are read.
pub const HEADER_LEN: usize = 512;

/// Byte offsets of the header's fields.
pub mod field {
    /// Version (u32).
    pub const VERSION: usize = 64;
    /// Bytes of the header: the catalog follows (u32).
    pub const HEADER: usize = 68;
    /// Entries of the catalog (u32).
    pub const CATALOG: usize = 72;
    /// Bytes of an extent's bitmap (u32).
    pub const BITMAP: usize = 76;
    /// Bytes of an extent (u32).
    pub const EXTENT: usize = 80;
    /// Bytes of the disk in version 1 (u64).
    pub const DISK_1: usize = 84;
    /// Bytes of the disk in version 2 (u64).
    pub const DISK_2: usize = 88;
}

/// Bytes of a catalog entry: the extent's place among the extents of the file.
pub const ENTRY: u32 = 4;
/// A catalog entry: nothing is stored of the extent.
pub const EMPTY: u32 = u32::MAX;
/// Bytes of a sector: a bit in the bitmap each.
pub const SECTOR: u64 = 512;
/// Most entries of a catalog (QEMU).
pub const CATALOG_MAX: u32 = 0x10_0000;
/// Most bytes of an extent (QEMU).
pub const EXTENT_MAX: u32 = 0x80_0000;
