//! Where things are in a QED file, and what its bits mean. All numbers are little-endian.
//!
//! Source: "QED Image File Format" (QEMU, docs/interop/qed_spec.rst), sections Header and Tables.

use instar_image::FileOffset;

/// `QED\0`
pub const MAGIC: &[u8] = b"QED\0";
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;

/// Byte offsets of the header's fields.
pub mod field {
    /// Bytes of a cluster (u32).
    pub const CLUSTER_SIZE: usize = 4;
    /// Clusters of a table (u32).
    pub const TABLE_SIZE: usize = 8;
    /// Clusters of the header (u32).
    pub const HEADER_SIZE: usize = 12;
    /// Features that a reader must know (u64).
    pub const FEATURES: usize = 16;
    /// Features that are switched off by a writer that does not know them (u64).
    pub const AUTOCLEAR_FEATURES: usize = 32;
    /// Byte offset of the L1 table (u64).
    pub const L1_OFFSET: usize = 40;
    /// Virtual size in bytes (u64).
    pub const IMAGE_SIZE: usize = 48;
    /// Byte offset of the backing file's name in the header (u32).
    pub const BACKING_OFFSET: usize = 56;
    /// Bytes of it (u32).
    pub const BACKING_LEN: usize = 60;
}

/// Bits of the features.
pub mod feature {
    /// There is a backing file.
    pub const BACKING: u64 = 1;
    /// Not closed cleanly: the tables may be wrong.
    pub const NEED_CHECK: u64 = 2;
    /// The backing file is raw, whatever it looks like.
    pub const BACKING_RAW: u64 = 4;
    /// All that are known.
    pub const KNOWN: u64 = BACKING | NEED_CHECK | BACKING_RAW;
}

/// Bytes of a table's entry.
pub const ENTRY: u64 = 8;
/// An entry whose cluster is not there.
pub const UNALLOCATED: u64 = 0;
/// An L2 entry whose cluster is all zeroes.
pub const ZERO: u64 = 1;

/// Bytes of a cluster: at least, at most, where nothing is said.
pub const CLUSTER_MIN: u64 = 4096;
pub const CLUSTER_MAX: u64 = 64 << 20;
pub const CLUSTER_DEFAULT: u64 = 65536;
/// Clusters of a table: the same.
pub const TABLE_MIN: u64 = 1;
pub const TABLE_MAX: u64 = 16;
pub const TABLE_DEFAULT: u64 = 4;
/// Longest backing file name in bytes (QEMU).
pub const BACKING_NAME_MAX: usize = 4095;
/// The virtual size is a multiple of this (QEMU).
pub const SECTOR: u64 = 512;

/// Whether a cluster may be so large.
#[must_use]
pub fn is_cluster_size(bytes: u64) -> bool {
    (CLUSTER_MIN..=CLUSTER_MAX).contains(&bytes) && bytes.is_power_of_two()
}

/// Whether a table may have so many clusters.
#[must_use]
pub fn is_table_size(clusters: u64) -> bool {
    (TABLE_MIN..=TABLE_MAX).contains(&clusters) && clusters.is_power_of_two()
}

/// Bytes of the largest disk that an L1 table of tables can hold.
#[must_use]
pub const fn size_max(cluster: u64, table: u64) -> u64 {
    let entries = cluster.saturating_mul(table) / ENTRY;
    entries.saturating_mul(entries).saturating_mul(cluster)
}

/// Where the cluster is that an L2 entry is for, if it has one.
#[must_use]
pub const fn plain(entry: u64) -> Option<FileOffset> {
    match entry {
        UNALLOCATED | ZERO => None,
        offset => Some(FileOffset::new(offset)),
    }
}
