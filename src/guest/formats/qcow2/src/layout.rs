//! The on-disk layout of qcow2: offsets, flags and limits. All numbers are big-endian.
//!
//! "spec" limits are the specification's, "QEMU" limits what `qemu-img` refuses to exceed, "instar" ours.

use instar_image::FileOffset;

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Byte offsets of the header's fields.
pub mod field {
    pub const VERSION: usize = 4;
    pub const BACKING_OFFSET: usize = 8;
    pub const BACKING_SIZE: usize = 16;
    pub const CLUSTER_BITS: usize = 20;
    pub const SIZE: usize = 24;
    pub const CRYPT_METHOD: usize = 32;
    pub const L1_SIZE: usize = 36;
    pub const L1_OFFSET: usize = 40;
    pub const REFCOUNT_OFFSET: usize = 48;
    pub const REFCOUNT_CLUSTERS: usize = 56;
    pub const SNAPSHOT_COUNT: usize = 60;
    pub const SNAPSHOT_OFFSET: usize = 64;
    /// From here on version 3 only.
    pub const INCOMPATIBLE: usize = 72;
    pub const COMPATIBLE: usize = 80;
    pub const AUTOCLEAR: usize = 88;
    pub const REFCOUNT_ORDER: usize = 96;
    pub const HEADER_LENGTH: usize = 100;
    /// One byte, where the header is long enough.
    pub const COMPRESSION_TYPE: usize = 104;
}

/// Header length of version 2, and the least of version 3, in bytes.
pub const HEADER_LENGTH_V2: u32 = 72;
/// See [`HEADER_LENGTH_V2`].
pub const HEADER_LENGTH_V3: u32 = 104;
/// That with the type of compression, and what fills it up.
pub const HEADER_LENGTH_WHOLE: u32 = 112;

/// Incompatible features.
pub mod incompatible {
    /// Refcounts may be wrong.
    pub const DIRTY: u64 = 1;
    /// Must not be written to.
    pub const CORRUPT: u64 = 1 << 1;
    /// The clusters are in another file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// The header has a compression type other than zlib.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries have 16 bytes.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// All that instar knows.
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Compatible feature: refcounts are written late.
pub const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1;
/// Autoclear feature: the bitmaps extension is consistent.
pub const AUTOCLEAR_BITMAPS: u64 = 1;
/// Autoclear feature: the data file is usable as a raw image.
pub const AUTOCLEAR_DATA_FILE_RAW: u64 = 1 << 1;
/// All that instar knows.
pub const AUTOCLEAR_KNOWN: u64 = AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW;

/// Header extensions.
pub mod extension {
    /// Ends the list.
    pub const END: u32 = 0;
    /// Name of the backing file's format.
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// Names of feature bits.
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    /// Where the bitmap directory is.
    pub const BITMAPS: u32 = 0x2385_2875;
    /// Where the LUKS header is.
    pub const CRYPTO_HEADER: u32 = 0x0537_be77;
    /// Name of the data file.
    pub const DATA_FILE: u32 = 0x4441_5441;
}

/// Smallest and largest cluster, as powers of two (spec, QEMU).
pub const CLUSTER_BITS: core::ops::RangeInclusive<u32> = 9..=21;
/// Largest refcount width, as a power of two of bits (spec).
pub const REFCOUNT_ORDER_MAX: u32 = 6;
/// Refcount width of version 2.
pub const REFCOUNT_ORDER_V2: u32 = 4;
/// Largest L1 table in bytes (QEMU).
pub const L1_BYTES_MAX: u64 = 32 << 20;
/// Largest refcount table in bytes (QEMU).
pub const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
/// Most snapshots (QEMU).
pub const SNAPSHOTS_MAX: u64 = 65536;
/// Largest snapshot table in bytes (QEMU).
pub const SNAPSHOT_TABLE_BYTES_MAX: u64 = 1024 * SNAPSHOTS_MAX;
/// Bytes of the names of all snapshots together (instar: what is kept in memory).
pub const SNAPSHOT_NAMES_MAX: usize = 8 << 20;
/// Most snapshots, and most bitmaps, that are described (instar: a description takes memory).
pub const SHOWN_MAX: usize = 16384;
/// Largest unknown part of a snapshot's entry in bytes (QEMU).
pub const SNAPSHOT_EXTRA_MAX: u32 = 1024;
/// Bytes of extra data that every snapshot of version 3 has (spec).
pub const SNAPSHOT_EXTRA_WHOLE: u32 = 16;
/// Fixed part of a snapshot's entry in bytes.
pub const SNAPSHOT_HEADER: usize = 40;
/// Longest name of a backing file's format, and one more (QEMU).
pub const BACKING_FORMAT_MAX: u32 = 16;
/// Where offsets in files end, in bytes (QEMU).
pub const FILE_OFFSET_MAX: FileOffset = FileOffset::new((1 << 63) - (1 << 30));
/// Largest virtual size that QEMU's block layer can count (the same number).
pub const VIRTUAL_SIZE_MAX: u64 = FILE_OFFSET_MAX.get();

/// Bits of an entry of the refcount table that are the offset of a block.
pub const REFCOUNT_BLOCK_MASK: u64 = !0x1ff;
/// Bits of an L1 entry that are the offset of an L2 table.
pub const L1_OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of an L2 entry that are the offset of a cluster.
pub const L2_OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Where the block of counts is that an entry of the refcount table is for; 0: there is none.
pub const fn block_of(entry: u64) -> FileOffset {
    FileOffset::new(entry & REFCOUNT_BLOCK_MASK)
}

/// Where the L2 table is that an L1 entry is for; 0: there is none.
pub const fn table_of(entry: u64) -> FileOffset {
    FileOffset::new(entry & L1_OFFSET_MASK)
}

/// Where the cluster is that an L2 entry (of no compressed one) is for; 0: there is none, but in a data file.
pub const fn host_of(entry: u64) -> FileOffset {
    FileOffset::new(entry & L2_OFFSET_MASK)
}

/// The cluster's refcount is exactly one.
pub const OFLAG_COPIED: u64 = 1 << 63;
/// The cluster is compressed.
pub const OFLAG_COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (not with extended L2 entries).
pub const OFLAG_ZERO: u64 = 1;
/// Bytes of an entry of the L1 table.
pub const L1_ENTRY: u64 = 8;
/// Subclusters of a cluster, with extended L2 entries.
pub const SUBCLUSTERS: u32 = 32;
/// Smallest subcluster in bytes (QEMU).
pub const SUBCLUSTER_MIN: u64 = 512;
/// Compressed clusters are counted in units of so many bytes.
pub const COMPRESSED_SECTOR: u64 = 512;
