//! Where the clusters of a new image go: first free ones, counted in refcount blocks that are made when they are
//! needed, in a table that moves when it is full.
//!
//! QEMU's order is followed step by step (the search goes on where the last one ended, and begins anew when a
//! refcount block had to be made for what it found), so that a new image is the same file to the byte. Nothing is read or
//! written here: it is bookkeeping with cluster numbers.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::{Error, FileOffset, Result};

use super::Geometry;
use super::table::ENTRY;
use crate::cluster::{self, ClusterNumber};
use crate::layout::{FILE_OFFSET_MAX, REFCOUNT_TABLE_BYTES_MAX};

/// Runs of clusters, of the file or of the disk: first, and the one behind the last. Adjacent ones are merged.
#[derive(Default)]
pub struct Runs<T>(BTreeMap<T, T>);

impl<T: Copy + Ord + Default> Runs<T> {
    /// Adds `first..end`, which overlaps no run.
    pub fn insert(&mut self, first: T, end: T) {
        if first >= end {
            return;
        }
        let (mut first, mut end) = (first, end);
        if let Some((&start, &before)) = self.0.range(..=first).next_back()
            && before >= first
        {
            first = start;
            end = end.max(before);
        }
        while let Some((&start, &behind)) = self.0.range(first..=end).next() {
            self.0.remove(&start);
            end = end.max(behind);
        }
        self.0.insert(first, end);
    }

    /// Takes `first..end` away.
    fn remove(&mut self, first: T, end: T) {
        while let Some((start, behind)) = self.next(first).filter(|(start, _)| *start < end) {
            self.0.remove(&start);
            if start < first {
                self.0.insert(start, first);
            }
            if behind > end {
                self.0.insert(end, behind);
            }
        }
    }

    /// The first run that ends behind `at`.
    pub fn next(&self, at: T) -> Option<(T, T)> {
        let before = self.0.range(..=at).next_back().filter(|(_, end)| **end > at);
        before.or_else(|| self.0.range(at..).next()).map(|(start, end)| (*start, *end))
    }

    fn last(&self) -> T {
        self.0.last_key_value().map_or_else(T::default, |(_, end)| *end)
    }
}

/// See the module.
pub struct Allocator {
    geometry: Geometry,
    used: Runs<ClusterNumber>,
    /// Where the next search begins.
    free: ClusterNumber,
    /// The refcount blocks; [`ClusterNumber::FIRST`]: not there.
    blocks: Vec<ClusterNumber>,
    /// The refcount table, and its length in clusters.
    table: (ClusterNumber, u64),
    /// Tables that were moved away from: what stays of them in the file. Cluster, bytes.
    left: Vec<(ClusterNumber, Vec<u8>)>,
}

/// A refcount block had to be made: what was looked for may be taken now.
struct Again;

impl Allocator {
    /// The header, the refcount table and its first block are there.
    pub fn new(geometry: Geometry) -> Self {
        let mut used = Runs::default();
        used.insert(ClusterNumber::FIRST, ClusterNumber::new(3));
        let entries = geometry.block_len() / ENTRY as usize;
        let mut blocks = vec![ClusterNumber::FIRST; entries];
        if let Some(first) = blocks.first_mut() {
            *first = ClusterNumber::new(2);
        }
        let (free, table) = (ClusterNumber::new(3), (ClusterNumber::new(1), 1));
        Self { geometry, used, free, blocks, table, left: Vec::new() }
    }

    /// The cluster behind the last one in use.
    pub fn end(&self) -> ClusterNumber {
        self.used.last()
    }

    /// Where the refcount table is, and its clusters.
    pub fn table(&self) -> (FileOffset, u32) {
        (self.table.0.offset(self.geometry.cluster_bits), u32::try_from(self.table.1).unwrap_or(u32::MAX))
    }

    /// The table's bytes.
    pub fn table_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            self.blocks.iter().flat_map(|block| block.offset(self.geometry.cluster_bits).get().to_be_bytes()).collect();
        bytes.resize(usize::try_from(self.table.1 << self.geometry.cluster_bits).unwrap_or(usize::MAX), 0);
        bytes
    }

    /// Former tables: where they are, and their content.
    pub fn left(&self) -> impl Iterator<Item = (FileOffset, &[u8])> {
        let bits = self.geometry.cluster_bits;
        self.left.iter().map(move |(first, bytes)| (first.offset(bits), bytes.as_slice()))
    }

    /// The blocks: where they are, and their content.
    pub fn block_bytes(&self) -> impl Iterator<Item = (FileOffset, Vec<u8>)> + '_ {
        let there = (0u64..).zip(&self.blocks).filter(|(_, block)| **block != ClusterNumber::FIRST);
        there.map(|(index, block)| {
            let mut bytes = vec![0; 1 << self.geometry.cluster_bits];
            let (begin, end) = (self.geometry.first(index), self.geometry.first(index + 1));
            let mut at = begin;
            while let Some((start, behind)) = self.used.next(at).filter(|(start, _)| *start < end) {
                for cluster in cluster::each(start.max(begin)..behind.min(end)) {
                    // Below the reach, which is 16 Mi at most.
                    self.geometry.set(&mut bytes, (cluster - begin) as usize, 1);
                }
                at = behind;
            }
            (block.offset(self.geometry.cluster_bits), bytes)
        })
    }

    /// Hands out `count` adjacent clusters; returns the first.
    pub fn allocate(&mut self, count: u64) -> Result<ClusterNumber> {
        loop {
            let first = self.search(count)?;
            if self.count(first, first + count)?.is_ok() {
                return Ok(first);
            }
        }
    }

    /// Hands out those of `count` clusters from `first` on that are free, up to the first that is not; returns how many.
    pub fn allocate_at(&mut self, first: ClusterNumber, count: u64) -> Result<u64> {
        loop {
            let free = self.used.next(first).map_or(count, |(start, _)| start.saturating_since(first).min(count));
            if free == 0 || self.count(first, first + free)?.is_ok() {
                return Ok(free);
            }
        }
    }

    /// The next place for `count` adjacent clusters, which are not taken yet.
    fn search(&mut self, count: u64) -> Result<ClusterNumber> {
        let mut first = self.free;
        while let Some((start, end)) = self.used.next(first) {
            if start >= first.saturating_add(count) {
                break;
            }
            first = end;
        }
        self.free = first.saturating_add(count);
        if self.free > ClusterNumber::of(FILE_OFFSET_MAX, self.geometry.cluster_bits) {
            return Err(Error::limit("File too large"));
        }
        Ok(first)
    }

    /// Counts the clusters `first..end`; all or, where a refcount block had to be made, none of them.
    fn count(&mut self, first: ClusterNumber, end: ClusterNumber) -> Result<core::result::Result<(), Again>> {
        let mut at = first;
        while at < end {
            if self.block_for(at)?.is_err() {
                self.used.remove(first, at);
                self.free = self.free.min(first);
                return Ok(Err(Again));
            }
            let next = self.geometry.first(self.geometry.place(at).0 + 1).min(end);
            self.used.insert(at, next);
            at = next;
        }
        Ok(Ok(()))
    }

    /// The clusters `first..end` are free again, and are found first.
    fn release(&mut self, first: ClusterNumber, end: ClusterNumber) {
        if first < end {
            self.used.remove(first, end);
            self.free = self.free.min(first);
        }
    }

    /// Makes the block that counts `cluster`, if it is not there. Blocks are counted in blocks: this goes at most two
    /// levels deep, as a block that lies in its own reach counts itself.
    fn block_for(&mut self, cluster: ClusterNumber) -> Result<core::result::Result<(), Again>> {
        let index = self.geometry.place(cluster).0;
        let slot = usize::try_from(index).unwrap_or(usize::MAX);
        if self.blocks.get(slot).is_some_and(|block| *block != ClusterNumber::FIRST) {
            return Ok(Ok(()));
        }
        let block = self.search(1)?;
        if self.geometry.place(block).0 == index {
            self.used.insert(block, block + 1);
        } else if self.count(block, block + 1)?.is_err() {
            return Ok(Err(Again));
        }
        match self.blocks.get_mut(slot) {
            Some(entry) => *entry = block,
            None => {
                // The table is full: a larger one goes behind all that the blocks so far can count.
                let counted = self.geometry.blocks_of(ClusterNumber::FIRST..(cluster + 1).max(block));
                let behind = self.geometry.first(counted.end);
                self.move_table(behind, 0, false, Some((slot, block)))?;
            }
        }
        Ok(Err(Again))
    }

    /// Puts a refcount table, with the blocks that are missing before it, to cluster `start`, so that `more` clusters
    /// can follow (half as much again, if not `exact`). Returns the cluster behind it.
    pub fn move_table(
        &mut self,
        start: ClusterNumber,
        more: u64,
        exact: bool,
        added: Option<(usize, ClusterNumber)>,
    ) -> Result<ClusterNumber> {
        let entries = (1u64 << self.geometry.cluster_bits) / ENTRY;
        let count = self.blocks_for((start + more).get(), exact);
        let wanted = if exact { count } else { count + count.div_ceil(2) };
        let length = wanted.next_multiple_of(entries);
        if length * ENTRY > REFCOUNT_TABLE_BYTES_MAX {
            return Err(Error::limit("File too large"));
        }
        // Nobody reads the old table any more; QEMU leaves it where it was.
        self.left.push((self.table.0, self.table_bytes()));
        self.blocks.resize(usize::try_from(length).unwrap_or(usize::MAX), ClusterNumber::FIRST);
        if let Some((slot, block)) = added
            && let Some(entry) = self.blocks.get_mut(slot)
        {
            *entry = block;
        }
        let from = usize::try_from(self.geometry.place(start).0).unwrap_or(usize::MAX);
        let to = usize::try_from(count).unwrap_or(usize::MAX);
        let mut table = start;
        for entry in self.blocks.iter_mut().take(to).skip(from).filter(|entry| **entry == ClusterNumber::FIRST) {
            *entry = table;
            table += 1;
        }
        let clusters = length / entries;
        self.used.insert(start, table + clusters);
        let (old, old_clusters) = core::mem::replace(&mut self.table, (table, clusters));
        self.release(old, old + old_clusters);
        Ok(table + clusters)
    }

    /// How many blocks count `clusters` clusters, themselves and the table.
    fn blocks_for(&self, clusters: u64, exact: bool) -> u64 {
        let entries = (1u64 << self.geometry.cluster_bits) / ENTRY;
        let (mut clusters, mut generous) = (clusters, !exact);
        let (mut blocks, mut table, mut last) = (0u64, 0u64, 0u64);
        loop {
            blocks = (clusters + table + blocks).div_ceil(self.geometry.reach());
            table = blocks.div_ceil(entries);
            let all = clusters + blocks + table;
            if all == last {
                if !generous {
                    return blocks;
                }
                generous = false;
                clusters += table.div_ceil(2);
                last = 0;
            } else {
                last = all;
            }
        }
    }
}
