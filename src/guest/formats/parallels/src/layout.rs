//! Where things are in a Parallels file, and what its numbers mean. All numbers are little-endian.
//!
//! Source: "Parallels Expandable Image File Format" (QEMU, docs/interop/parallels.rst).

/// Magic of images whose map counts in sectors.
pub const MAGIC_SECTORS: &[u8; 16] = b"WithoutFreeSpace";
/// Magic of images whose map counts in clusters.
pub const MAGIC_CLUSTERS: &[u8; 16] = b"WithouFreSpacExt";
/// The only version.
pub const VERSION: u32 = 2;
/// Bytes of the header; the map follows.
pub const HEADER_LEN: usize = 64;

/// Byte offsets of the header's fields.
pub mod field {
    /// Version (u32).
    pub const VERSION: usize = 16;
    /// Heads of the disk's geometry (u32).
    pub const HEADS: usize = 20;
    /// Cylinders of it (u32).
    pub const CYLINDERS: usize = 24;
    /// Sectors of a cluster (u32).
    pub const TRACKS: usize = 28;
    /// Entries of the map (u32).
    pub const ENTRIES: usize = 32;
    /// Virtual size in sectors (u64; of the first magic only its lower half counts).
    pub const SECTORS: usize = 36;
    /// Whether the image is open (u32).
    pub const IN_USE: usize = 44;
    /// First sector of the clusters; 0: right behind the map (u32).
    pub const DATA_OFFSET: usize = 48;
    /// First sector of the format extension; 0: there is none (u64).
    pub const EXTENSION: usize = 56;
}

/// The image was not closed.
pub const IN_USE: u32 = 0x746f_6e59;
/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Bytes of a map entry.
pub const ENTRY: u64 = 4;
/// Heads of the geometry that is told of new images.
pub const HEADS: u32 = 16;
/// Sectors of each cylinder of it, over all heads.
pub const PER_CYLINDER: u64 = 32 * HEADS as u64;
/// Most sectors of a cluster (QEMU).
pub const TRACKS_MAX: u32 = i32::MAX as u32 / 513;
/// Most entries of the map (QEMU).
pub const ENTRIES_MAX: u32 = i32::MAX as u32 / 4;
/// Largest disk in sectors (QEMU: what its block layer can address).
pub const SECTORS_MAX: u64 = ((1 << 63) - (1 << 30)) / SECTOR;

/// Whether a map entry is that of no cluster.
#[must_use]
pub const fn is_absent(entry: u32) -> bool {
    entry == 0
}

/// The format extension.
pub mod extension {
    /// At its beginning; behind it the MD5 checksum of what follows the header.
    pub const MAGIC: u64 = 0xab23_4cef_23dc_ea87;
    /// Bytes of its header.
    pub const HEADER_LEN: usize = 24;
    /// Bytes of a feature's header: magic (u64), flags (u64), bytes of data (u32), nothing (u32).
    pub const FEATURE_LEN: usize = 24;
    /// The feature behind the last.
    pub const END: u64 = 0;
    /// A dirty bitmap.
    pub const BITMAP: u64 = 0x2038_5fae_252c_b34a;
    /// Bytes of a bitmap's data before its table.
    pub const BITMAP_LEN: usize = 32;
}
