//! Where things are in a qcow file (version 1), and what its numbers mean. All numbers are big-endian.
//!
//! Source: "The QCOW Image Format" by M. McLoughlin, version 1; QEMU where that is silent.

use instar_image::FileOffset;

/// Magic and version 1.
pub const MAGIC_1: &[u8] = b"QFI\xfb\0\0\0\x01";
/// The magic, which qcow2 has too.
pub const MAGIC: &[u8] = b"QFI\xfb";
/// Bytes of the header.
pub const HEADER_LEN: usize = 48;

/// Byte offsets of the header's fields.
pub mod field {
    /// Version (u32).
    pub const VERSION: usize = 4;
    /// Byte offset of the backing file's name; 0: none (u64).
    pub const BACKING_OFFSET: usize = 8;
    /// Bytes of it (u32).
    pub const BACKING_LEN: usize = 16;
    /// Virtual size in bytes (u64).
    pub const SIZE: usize = 24;
    /// Bits of an offset in a cluster (u8).
    pub const CLUSTER_BITS: usize = 32;
    /// Bits of an index in an L2 table (u8).
    pub const L2_BITS: usize = 33;
    /// 0: plain, 1: AES (u32).
    pub const CRYPT_METHOD: usize = 36;
    /// Byte offset of the L1 table (u64).
    pub const L1_OFFSET: usize = 40;
}

/// Bytes of a table's entry.
pub const ENTRY: u64 = 8;
/// In an L2 entry: the cluster is compressed. Below it, in the cluster's bits, the length, then the offset.
pub const COMPRESSED: u64 = 1 << 63;
/// Longest backing file name in bytes (QEMU).
pub const BACKING_NAME_MAX: u32 = 1023;
/// Bytes of a sector: the disk has whole ones.
pub const SECTOR: u64 = 512;
/// Most entries of the L1 table (QEMU).
pub const ENTRIES_MAX: u64 = i32::MAX as u64 / ENTRY;

/// Where the plain cluster is that an L2 entry is for, if it is for one.
#[must_use]
pub const fn plain(entry: u64) -> Option<FileOffset> {
    if entry == 0 || entry & COMPRESSED != 0 { None } else { Some(FileOffset::new(entry)) }
}
