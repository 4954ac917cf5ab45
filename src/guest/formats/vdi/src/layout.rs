//! Where things are in a VDI file, and what its numbers mean. All numbers are little-endian.
//!
//! Source: VirtualBox, "VDI image file format" (VDICore.h: VDIPREHEADER, VDIHEADER0, VDIHEADER1, VDIHEADER1PLUS).

/// Byte offset of the signature, behind a text.
pub const SIGNATURE_AT: usize = 64;
/// The signature.
pub const SIGNATURE: u32 = 0xbeda_107f;
/// Bytes of the header with all that precedes it.
pub const HEADER_LEN: usize = 512;
/// Major version in the upper half, minor in the lower.
pub const VERSION_1_1: u32 = 0x0001_0001;

/// Byte offsets of the header's fields (version 1.1).
pub mod field {
    /// Version (u32).
    pub const VERSION: usize = 68;
    /// Bytes of the header from this field on (u32).
    pub const HEADER_SIZE: usize = 72;
    /// Kind of image (u32).
    pub const TYPE: usize = 76;
    /// Byte offset of the block map (u32).
    pub const MAP_OFFSET: usize = 340;
    /// Byte offset of the first block (u32).
    pub const DATA_OFFSET: usize = 344;
    /// Bytes of a sector (u32).
    pub const SECTOR_SIZE: usize = 360;
    /// Virtual size in bytes (u64).
    pub const DISK_SIZE: usize = 368;
    /// Bytes of a block (u32).
    pub const BLOCK_SIZE: usize = 376;
    /// Blocks of the disk (u32).
    pub const BLOCKS: usize = 384;
    /// Blocks in the file (u32).
    pub const ALLOCATED: usize = 388;
    /// Identifier of the image (16 bytes).
    pub const UUID: usize = 392;
    /// Identifier of its last snapshot (16 bytes).
    pub const SNAPSHOT_UUID: usize = 408;
    /// Identifier of the image below (16 bytes).
    pub const LINK_UUID: usize = 424;
    /// Identifier of the image that this one differs from (16 bytes).
    pub const PARENT_UUID: usize = 440;
}

/// Kind of image: blocks are added as they are written.
pub const TYPE_DYNAMIC: u32 = 1;
/// Kind of image: every block is there.
pub const TYPE_STATIC: u32 = 2;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Bytes of a block: no other size is known to be used.
pub const BLOCK: u64 = 1 << 20;
/// Most blocks (QEMU: what an array of map entries can hold).
pub const BLOCKS_MAX: u64 = 0x1fff_ff80;
/// Largest disk in bytes (QEMU).
pub const SIZE_MAX: u64 = BLOCKS_MAX * BLOCK;
/// Bytes of a map entry.
pub const ENTRY: u64 = 4;
/// From this map entry on a block is not in the file: thrown away (this one), or never written (all bits set).
pub const DISCARDED: u32 = 0xffff_fffe;
/// A block that was never written.
pub const UNALLOCATED: u32 = 0xffff_ffff;

/// Whether a map entry is that of no block.
#[must_use]
pub const fn is_absent(entry: u32) -> bool {
    entry >= DISCARDED
}
