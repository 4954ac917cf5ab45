//! Counting references while clusters are handed out in ascending order: a block of counts is written as soon as no
//! cluster of it can change any more, so memory does not grow with the image.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::sealed::Placed;
use instar_image::{DeviceId, Error, FileOffset, Result};

use super::Geometry;
use crate::cluster::{self, ClusterNumber};
use crate::layout::{FILE_OFFSET_MAX, REFCOUNT_TABLE_BYTES_MAX};

/// Hands out clusters and counts them.
pub struct Refcounts {
    device: DeviceId,
    geometry: Geometry,
    /// First cluster that is free; all after it are.
    next: ClusterNumber,
    /// Blocks that still change, by number.
    open: BTreeMap<u64, Vec<u8>>,
    /// Where the blocks written so far are: the refcount table.
    table: Vec<FileOffset>,
}

impl Refcounts {
    /// Nothing is handed out yet.
    pub const fn new(device: DeviceId, geometry: Geometry) -> Self {
        Self { device, geometry, next: ClusterNumber::FIRST, open: BTreeMap::new(), table: Vec::new() }
    }

    /// Where all is free from on.
    pub const fn end(&self) -> FileOffset {
        self.next.offset(self.geometry.cluster_bits)
    }

    /// The largest count.
    pub const fn max(&self) -> u64 {
        self.geometry.max()
    }

    /// Hands out `count` adjacent clusters; returns where the first is.
    pub fn allocate(&mut self, count: u64) -> Result<FileOffset> {
        let first = self.next;
        let end = first.saturating_add(count);
        if end > ClusterNumber::of(FILE_OFFSET_MAX, self.geometry.cluster_bits) {
            return Err(Error::limit("File too large"));
        }
        self.next = end;
        self.add_range(first, end);
        Ok(first.offset(self.geometry.cluster_bits))
    }

    /// Counts every cluster of a range once, whole bytes of ones at a time where the width lets it.
    fn add_range(&mut self, first: ClusterNumber, end: ClusterNumber) {
        for cluster in cluster::each(first..end) {
            self.set(cluster, 1);
        }
    }

    /// The count of a cluster whose block is still open.
    pub fn get(&self, cluster: ClusterNumber) -> u64 {
        let (block, index) = self.geometry.place(cluster);
        self.open.get(&block).map_or(0, |bytes| self.geometry.get(bytes, index))
    }

    /// Sets the count of a cluster whose block is still open.
    pub fn set(&mut self, cluster: ClusterNumber, count: u64) {
        let (block, index) = self.geometry.place(cluster);
        let size = 1usize << self.geometry.cluster_bits;
        let bytes = self.open.entry(block).or_insert_with(|| vec![0; size]);
        self.geometry.set(bytes, index, count);
    }

    /// Writes the blocks that count only clusters before `settled`.
    pub fn flush(&mut self, settled: FileOffset, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        let limit = self.geometry.place(ClusterNumber::of(settled, self.geometry.cluster_bits)).0;
        while let Some(block) = self.open.keys().next().copied().filter(|block| *block < limit) {
            self.write(block, steps)?;
        }
        Ok(())
    }

    fn write(&mut self, block: u64, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        // The block's own cluster may be counted in the block itself: it is taken before the block is closed.
        let offset = self.allocate(1)?;
        if let Some(data) = self.open.remove(&block) {
            self.table.push(offset);
            steps.push(Placed::Owned { device: self.device, offset, data });
        }
        Ok(())
    }

    /// Writes all blocks and the table; returns where the table is, and its clusters.
    pub fn finish(&mut self, steps: &mut Vec<Placed<'_>>) -> Result<(FileOffset, u32)> {
        let size = 1u64 << self.geometry.cluster_bits;
        let mut blocks: u64;
        let mut table_clusters;
        // The table and the blocks count themselves: look for the numbers that fit.
        let used = self.next.get();
        let (mut total, done) = (used, self.table.len() as u64);
        loop {
            blocks = total.div_ceil(self.geometry.reach()).max(1);
            table_clusters = (blocks * 8).div_ceil(size);
            let wanted = used + (blocks - done) + table_clusters;
            if wanted == total {
                break;
            }
            total = wanted;
        }
        if table_clusters * size > REFCOUNT_TABLE_BYTES_MAX {
            return Err(Error::limit("File too large"));
        }
        let table = self.allocate(table_clusters)?;
        let first = self.allocate(blocks - done)?;
        for block in done..blocks {
            let offset = first + ((block - done) << self.geometry.cluster_bits);
            let data = self.open.remove(&block).unwrap_or_else(|| vec![0; 1 << self.geometry.cluster_bits]);
            self.table.push(offset);
            steps.push(Placed::Owned { device: self.device, offset, data });
        }
        let mut data: Vec<u8> = self.table.iter().flat_map(|offset| offset.get().to_be_bytes()).collect();
        data.resize((table_clusters << self.geometry.cluster_bits) as usize, 0);
        steps.push(Placed::Owned { device: self.device, offset: table, data });
        Ok((table, table_clusters as u32))
    }
}
