//! Clusters of the file by their numbers.

use core::ops::Range;

use instar_image::FileOffset;

/// The number of the cluster that lies at `offset`, or has a part there.
pub const fn number(offset: FileOffset, cluster_bits: u32) -> u64 {
    offset.get() >> cluster_bits
}

/// Where a cluster begins.
pub const fn offset(number: u64, cluster_bits: u32) -> FileOffset {
    FileOffset::new(number << cluster_bits)
}

/// The clusters that lie in `len` bytes at `offset`, or have a part there.
pub const fn run(offset: FileOffset, len: u64, cluster_bits: u32) -> Range<u64> {
    number(offset, cluster_bits)..offset.saturating_add(len).get().div_ceil(1 << cluster_bits)
}
