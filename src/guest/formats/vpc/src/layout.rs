//! What lies where in a VHD file. All numbers are big-endian.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0 (October 2006).

use instar_image::FileOffset;

/// Bytes of a sector: offsets in the block allocation table count in them.
pub const SECTOR: u64 = 512;
/// First bytes of a footer ("Hard Disk Footer Format").
pub const COOKIE: &[u8; 8] = b"conectix";
/// First bytes of a dynamic disk header.
pub const DYNAMIC_COOKIE: &[u8; 8] = b"cxsparse";
/// Length of a footer.
pub const FOOTER: usize = 512;
/// Length of a dynamic disk header.
pub const DYNAMIC_HEADER: usize = 1024;
/// A block that has no place in the file.
pub const UNUSED: u32 = u32::MAX;

/// Whether an entry is that of no block.
#[must_use]
pub const fn is_absent(entry: u32) -> bool {
    entry == UNUSED
}

/// Largest disk in sectors: what offsets in the table can reach (2040 GiB).
pub const MAX_SECTORS: u64 = 0xff00_0000;
/// Sectors of the largest disk that cylinders, heads and sectors can tell.
pub const MAX_GEOMETRY: u64 = 65535 * 16 * 255;

/// Most entries of a table: a longer one is not taken by QEMU.
pub const ENTRIES_MAX: u64 = i32::MAX as u64 / 4;

/// Byte offsets in a footer.
pub mod footer {
    pub const DATA_OFFSET: usize = 16;
    pub const CREATOR: usize = 28;
    pub const ORIGINAL_SIZE: usize = 40;
    pub const CURRENT_SIZE: usize = 48;
    pub const CYLINDERS: usize = 56;
    pub const HEADS: usize = 58;
    pub const SECTORS: usize = 59;
    pub const TYPE: usize = 60;
    pub const CHECKSUM: usize = 64;
    pub const UNIQUE_ID: usize = 68;
}

/// Byte offsets in a dynamic disk header.
pub mod dynamic {
    pub const TABLE_OFFSET: usize = 16;
    pub const MAX_ENTRIES: usize = 28;
    pub const BLOCK_SIZE: usize = 32;
    pub const CHECKSUM: usize = 36;
    pub const PARENT_ID: usize = 40;
    pub const PARENT_NAME: usize = 64;
    pub const LOCATORS: usize = 576;
}

/// Bytes of the parent's name in a dynamic disk header, in UTF-16.
pub const PARENT_NAME_LEN: usize = 512;
/// Parent locators in a dynamic disk header.
pub const LOCATORS: usize = 8;
/// Bytes of one of them.
pub const LOCATOR: usize = 24;

/// Puts a field into a structure.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// The sum that makes a structure whole: the complement of the sum of its bytes, its own field left out.
#[must_use]
pub fn checksum(bytes: &[u8], field: usize) -> u32 {
    let own = field..field + 4;
    let sum: u32 =
        bytes.iter().enumerate().filter(|(i, _)| !own.contains(i)).fold(0, |s, (_, b)| s.wrapping_add(u32::from(*b)));
    !sum
}

/// Bytes of the bitmap before each block of `block` bytes: a bit a sector, in whole sectors.
#[must_use]
pub const fn bitmap_len(block: u64) -> u64 {
    (block / (SECTOR * 8)).next_multiple_of(SECTOR)
}

/// Where the block, with its bitmap, is that a table's entry is for.
#[must_use]
pub const fn block_at(entry: u32) -> FileOffset {
    FileOffset::new(entry as u64 * SECTOR)
}
