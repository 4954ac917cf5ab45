//! What lies where in a VHDX file. All numbers are little-endian.
//!
//! Source: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format", section 2.

use crc::{CRC_32_ISCSI, Crc, Digest, Table};
use instar_image::FileOffset;

/// First bytes of the file (2.2.1).
pub const FILE_SIGNATURE: &[u8; 8] = b"vhdxfile";
/// Where the two headers are (2.2.2).
pub const HEADERS: [FileOffset; 2] = [FileOffset::new(64 << 10), FileOffset::new(128 << 10)];
/// Bytes of a header.
pub const HEADER: usize = 4096;
/// Where the two region tables are (2.2.3).
pub const REGION_TABLES: [FileOffset; 2] = [FileOffset::new(192 << 10), FileOffset::new(256 << 10)];
/// Bytes of a region table, and of a metadata table.
pub const TABLE: usize = 64 << 10;
/// Most entries of a region table, and of a metadata table.
pub const ENTRIES_MAX: u16 = 2047;
/// What logs, regions and blocks are aligned to, in bytes.
pub const ALIGNMENT: u64 = 1 << 20;
/// Bytes of a sector of the log (2.3).
pub const LOG_SECTOR: u64 = 4096;
/// Bytes of a sector bitmap block: a bit for each sector of a chunk (2.5.1.2).
pub const BITMAP_BLOCK: u64 = 1 << 20;
/// Sectors of a chunk.
pub const CHUNK_SECTORS: u64 = 1 << 23;
/// Largest disk in bytes (2.6.2.2).
pub const SIZE_MAX: u64 = 64 << 40;
/// Smallest and largest block in bytes (2.6.2.1).
pub const BLOCK_SIZES: core::ops::RangeInclusive<u64> = 1 << 20..=256 << 20;

/// Byte offsets in a header.
pub mod header {
    pub const CHECKSUM: usize = 4;
    pub const SEQUENCE: usize = 8;
    pub const FILE_WRITE_GUID: usize = 16;
    pub const DATA_WRITE_GUID: usize = 32;
    pub const LOG_GUID: usize = 48;
    pub const LOG_VERSION: usize = 64;
    pub const VERSION: usize = 66;
    pub const LOG_LENGTH: usize = 68;
    pub const LOG_OFFSET: usize = 72;
}

/// States of a payload block (2.5.1.1): the low bits of its entry.
pub mod state {
    pub const MASK: u64 = 7;
    pub const NOT_PRESENT: u64 = 0;
    pub const UNDEFINED: u64 = 1;
    pub const ZERO: u64 = 2;
    pub const UNMAPPED: u64 = 3;
    /// As drafts of the format had it.
    pub const UNMAPPED_DRAFT: u64 = 5;
    pub const FULLY_PRESENT: u64 = 6;
    pub const PARTIALLY_PRESENT: u64 = 7;
}

/// The bits of an entry that are a byte offset.
pub const OFFSET_MASK: u64 = !0 << 20;

/// A GUID as it is stored: its first three fields are little-endian.
const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// Identifiers of regions (2.2.3.2).
pub mod region {
    use super::guid;
    pub const BAT: [u8; 16] = guid(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
    pub const METADATA: [u8; 16] = guid(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);
}

/// Identifiers of metadata items (2.6.2).
pub mod item {
    use super::guid;
    pub const FILE_PARAMETERS: [u8; 16] =
        guid(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
    pub const DISK_SIZE: [u8; 16] = guid(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
    pub const DISK_ID: [u8; 16] = guid(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
    pub const LOGICAL_SECTOR: [u8; 16] =
        guid(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
    pub const PHYSICAL_SECTOR: [u8; 16] =
        guid(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);
    pub const PARENT_LOCATOR: [u8; 16] =
        guid(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);
}

/// The kind of parent locator that has a parent in VHDX format (2.6.2.6.3).
pub const LOCATOR_VHDX: [u8; 16] = guid(0xb04a_efb7, 0xd19e, 0x4a81, [0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13]);

/// Puts a field into a structure.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// CRC-32C of a structure whose own field of four bytes counts as zeroes.
pub struct Checksum {
    digest: Digest<'static, u32, Table<16>>,
    /// Bytes taken so far, and where the field begins.
    taken: usize,
    field: usize,
}

impl Checksum {
    /// Of a structure with the field at byte `field`.
    #[must_use]
    pub fn new(field: usize) -> Self {
        Self { digest: CRC.digest(), taken: 0, field }
    }

    /// Takes more of it; the field comes whole, in the first part.
    pub fn update(&mut self, bytes: &[u8]) {
        match bytes.split_at_checked(self.field) {
            Some((before, rest)) if self.taken == 0 => {
                self.digest.update(before);
                self.digest.update(&[0; 4]);
                self.digest.update(rest.get(4..).unwrap_or_default());
            }
            _ => self.digest.update(bytes),
        }
        self.taken = self.taken.saturating_add(bytes.len());
    }

    /// The sum of what was taken.
    #[must_use]
    pub fn finish(self) -> u32 {
        self.digest.finalize()
    }
}

/// The [`Checksum`] of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8], field: usize) -> u32 {
    let mut sum = Checksum::new(field);
    sum.update(bytes);
    sum.finish()
}
