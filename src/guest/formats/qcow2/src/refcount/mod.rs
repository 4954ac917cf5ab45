//! Refcounts: how often each cluster of the file is referred to (spec, "Host cluster management").
//!
//! A [`table`] says where the blocks are, a [`block`] holds the counts. Of an existing image they are [`stored`], and
//! [`counts`] changes them in place and hands out clusters; a [`sheet`] counts anew what refers to the clusters, to be compared
//! with what is stored or to be written in its place. A new image's are made in one go: by the [`allocator`] where QEMU's
//! order of clusters counts, as a [`stream`] where it is written from front to back.

pub mod allocator;
pub mod block;
pub mod counts;
mod free;
pub mod sheet;
pub mod shift;
pub mod stored;
pub mod stream;
pub mod table;

use crate::cluster::ClusterNumber;

/// Which block counts a cluster, and where in it.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Log2 of a cluster's bytes.
    pub cluster_bits: u32,
    /// Log2 of the bits of a count.
    pub order: u32,
}

impl Geometry {
    /// Log2 of the clusters that one block counts.
    pub const fn block_bits(self) -> u32 {
        self.cluster_bits.saturating_add(3).saturating_sub(self.order)
    }

    /// Clusters that one block counts.
    pub const fn reach(self) -> u64 {
        1 << self.block_bits()
    }

    /// Bytes of a block.
    pub const fn block_len(self) -> usize {
        1 << self.cluster_bits
    }

    /// The largest count.
    pub const fn max(self) -> u64 {
        block::max(self.order)
    }

    /// The number of the block that counts the cluster, and which of its counts that is.
    pub const fn place(self, cluster: ClusterNumber) -> (u64, usize) {
        let cluster = cluster.get();
        // The index is below the reach, which is 16 Mi at most.
        (cluster >> self.block_bits(), (cluster & (self.reach() - 1)) as usize)
    }

    /// The first cluster that a block counts.
    pub const fn first(self, number: u64) -> ClusterNumber {
        ClusterNumber::new(number.saturating_mul(self.reach()))
    }

    /// The numbers of the blocks that count those clusters.
    pub const fn blocks_of(self, clusters: core::ops::Range<ClusterNumber>) -> core::ops::Range<u64> {
        clusters.start.get() >> self.block_bits()..clusters.end.get().div_ceil(self.reach())
    }

    /// A count in the bytes of a block.
    pub fn get(self, block: &[u8], index: usize) -> u64 {
        block::get(block, self.order, index)
    }

    /// Sets it.
    pub fn set(self, block: &mut [u8], index: usize, count: u64) {
        block::set(block, self.order, index, count);
    }
}
