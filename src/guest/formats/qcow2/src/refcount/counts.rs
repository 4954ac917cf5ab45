//! The refcounts of an existing image: handing out free clusters, giving clusters up, and the growth of the refcount
//! table.
//!
//! Clusters that are handed out are counted at once, in memory; those that are given up only by
//! [`Counts::apply_releases`], once nothing stable refers to them. Until then they are not handed out again.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::sealed::Placed;
use instar_image::{DeviceId, Error, FileOffset, Machine, Result};

use super::Geometry;
use super::table::{ENTRY, Table};
use crate::cache::{Cached, WriteCache};
use crate::cluster::{self, ClusterNumber};
use crate::header::Header;
use crate::layout::{FILE_OFFSET_MAX, L1_ENTRY, REFCOUNT_BLOCK_MASK, REFCOUNT_TABLE_BYTES_MAX, block_of};

/// Makes a range reach as far as another one does, too.
pub fn widen(range: &mut Range<usize>, by: Range<usize>) {
    let empty = range.start >= range.end;
    *range = if empty { by } else { range.start.min(by.start)..range.end.max(by.end) };
}

/// Adds clusters to runs of such: to the last one if they follow it.
pub fn add_run(runs: &mut Vec<(ClusterNumber, u64)>, first: ClusterNumber, count: u64) {
    match runs.last_mut() {
        Some((start, len)) if *start + *len == first => *len += count,
        _ => runs.push((first, count)),
    }
}

/// A block in memory.
pub struct Block {
    /// Its counts.
    pub bytes: Vec<u8>,
    changed: bool,
}

impl Block {
    /// Its bytes differ from the file's now.
    pub const fn change(&mut self) {
        self.changed = true;
    }
}

impl Cached for Block {
    fn is_changed(&self) -> bool {
        self.changed
    }
}

/// See the module.
pub struct Counts<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    /// Where the blocks are, without the entries' reserved bits.
    pub(super) table: Table,
    /// The table has outgrown its place; where the new one is, once it has one.
    pub(super) outgrown: bool,
    pub(super) new_place: Option<FileOffset>,
    /// Entries of the table that differ from the file's.
    pub(super) changed: Range<usize>,
    pub(super) blocks: WriteCache<Block>,
    /// No cluster below is free.
    next: ClusterNumber,
    /// Runs of clusters to be given up: first, count.
    released: Vec<(ClusterNumber, u64)>,
    /// Runs of clusters that lost their last reference: first, count.
    pub(super) freed: Vec<(ClusterNumber, u64)>,
    /// Blocks that count fewer clusters than before.
    pub(super) thinned: BTreeSet<u64>,
    /// Clusters that can never be free, whatever the counts say.
    pub(super) taken: Vec<Range<ClusterNumber>>,
}

impl<'a> Counts<'a> {
    /// Reads the table.
    pub fn open(machine: &'a dyn Machine, device: DeviceId, header: &Header) -> Result<Self> {
        let mut table = Table::read(machine, device, header)?;
        table.entries.iter_mut().for_each(|entry| *entry &= REFCOUNT_BLOCK_MASK);
        let cluster = header.cluster_size();
        if let Some(bad) = table.entries.iter().find(|o| !o.is_multiple_of(cluster)) {
            return Err(Error::corrupt(alloc::format!(
                "qcow2: Image is corrupt: Refblock offset {bad:#x} unaligned; further non-fatal corruption events will \
                 be suppressed"
            )));
        }
        let l1_bytes = u64::from(header.l1_size) * L1_ENTRY;
        let run = |offset: FileOffset, len: u64| cluster::run(offset, len, header.cluster_bits);
        let taken = vec![
            ClusterNumber::FIRST..ClusterNumber::new(1),
            run(table.place.0, table.place.1),
            run(header.l1_offset, l1_bytes),
        ];
        Ok(Self {
            machine,
            device,
            table,
            outgrown: false,
            new_place: None,
            changed: 0..0,
            blocks: WriteCache::new(header.cluster_bits),
            next: ClusterNumber::FIRST,
            released: Vec::new(),
            freed: Vec::new(),
            thinned: BTreeSet::new(),
            taken,
        })
    }

    pub(super) const fn geometry(&self) -> Geometry {
        self.table.geometry
    }

    /// The largest count.
    pub const fn max(&self) -> u64 {
        self.geometry().max()
    }

    /// Log2 of the bytes of a cluster.
    pub const fn cluster_bits(&self) -> u32 {
        self.geometry().cluster_bits
    }

    /// Where all blocks are; 0 where there is none.
    pub fn block_places(&self) -> impl Iterator<Item = FileOffset> {
        self.table.entries.iter().map(|entry| block_of(*entry))
    }

    /// Where the table is: first cluster, clusters.
    pub fn place(&self) -> (ClusterNumber, u64) {
        let (offset, len) = self.table.place;
        (ClusterNumber::of(offset, self.cluster_bits()), len.div_ceil(1 << self.cluster_bits()))
    }

    /// Bytes that wait in memory.
    pub fn waiting(&self) -> usize {
        self.blocks.waiting().saturating_add((self.released.len() + self.freed.len()).saturating_mul(16))
    }

    /// The block of that number, if there is one.
    pub(super) fn block(&mut self, number: u64) -> Result<Option<&mut Block>> {
        let offset = self.table.offset(number);
        if offset == FileOffset::ZERO {
            return Ok(None);
        }
        let (machine, device, len) = (self.machine, self.device, self.geometry().block_len());
        let block = self.blocks.get(number, || {
            let mut bytes = vec![0; len];
            machine.read(device, offset, &mut bytes)?;
            Ok(Block { bytes, changed: false })
        });
        block.map(Some)
    }

    /// The count of a cluster.
    pub fn get(&mut self, cluster: ClusterNumber) -> Result<u64> {
        let geometry = self.geometry();
        let (number, index) = geometry.place(cluster);
        Ok(self.block(number)?.map_or(0, |block| geometry.get(&block.bytes, index)))
    }

    fn set(&mut self, cluster: ClusterNumber, count: u64) -> Result<()> {
        self.set_run(cluster, 1, count)
    }

    pub(super) fn set_run(&mut self, first: ClusterNumber, count: u64, to: u64) -> Result<()> {
        let geometry = self.geometry();
        let mut at = first;
        while at < first + count {
            let (number, index) = geometry.place(at);
            let block = self.block(number)?.ok_or_else(|| Error::corrupt("a cluster that nothing counts"))?;
            let end = geometry.first(number + 1).min(first + count);
            for (index, _) in (index..).zip(cluster::each(at..end)) {
                geometry.set(&mut block.bytes, index, to);
            }
            block.changed = true;
            at = end;
        }
        Ok(())
    }

    /// One more reference to a cluster that has some; false if its count has no room.
    pub fn add_reference(&mut self, cluster: ClusterNumber) -> Result<bool> {
        let count = self.get(cluster)?;
        if count >= self.max() {
            return Ok(false);
        }
        self.set(cluster, count + 1)?;
        Ok(true)
    }

    /// Hands out at most `most` adjacent clusters: the first that are free. Returns the number of the first and how many.
    pub fn allocate_some(&mut self, most: u64) -> Result<(ClusterNumber, u64)> {
        let (first, count) = self.free_run(self.next, most, false)?;
        self.set_run(first, count, 1)?;
        self.next = first + count;
        Ok((first, count))
    }

    /// Hands out exactly `count` adjacent clusters.
    pub fn allocate(&mut self, count: u64) -> Result<ClusterNumber> {
        let from = self.next;
        let (first, _) = self.free_run(from, count, true)?;
        self.set_run(first, count, 1)?;
        if first == from {
            self.next = first + count;
        }
        Ok(first)
    }

    /// Takes back clusters that were handed out and that nothing was written to.
    pub fn take_back(&mut self, first: ClusterNumber, count: u64) -> Result<()> {
        self.set_run(first, count, 0)?;
        self.next = self.next.min(first);
        Ok(())
    }

    /// The first run of free clusters from `from` on: `all` of the number wanted, or as many as there are.
    fn free_run(&mut self, from: ClusterNumber, wanted: u64, all: bool) -> Result<(ClusterNumber, u64)> {
        let (mut first, mut count) = (from, 0);
        while count < wanted.max(1) {
            let cluster = first + count;
            if cluster >= ClusterNumber::of(FILE_OFFSET_MAX, self.geometry().cluster_bits) {
                return Err(Error::limit("File too large"));
            }
            let geometry = self.geometry();
            let ((number, index), reach) = (geometry.place(cluster), geometry.reach());
            let Some(block) = self.block(number)? else {
                if count > 0 && !all {
                    break;
                }
                self.add_block(number, cluster)?;
                (first, count) = (cluster + 1, 0);
                continue;
            };
            // Within one block: past what is taken, then over what is free.
            let used = |i: &u64| geometry.get(&block.bytes, *i as usize) != 0;
            let start = index as u64;
            if count == 0 {
                let Some(free) = (start..reach).find(|i| !used(i)) else {
                    first = geometry.first(number + 1);
                    continue;
                };
                (first, count) = (geometry.first(number) + free, 1);
                continue;
            }
            let end = (start..reach.min(start + wanted - count)).find(used);
            count += end.unwrap_or(reach.min(start + wanted - count)) - start;
            if end.is_some() {
                if !all {
                    break;
                }
                (first, count) = (first + count, 0);
            }
        }
        if let Some(range) = self.taken.iter().find(|r| r.start < first + count && first < r.end) {
            return Err(Error::corrupt(alloc::format!(
                "the image is corrupt: cluster {} is in use, but its refcount is 0",
                range.start.max(first)
            ))
            .with_hint("qemu-img check -r all may repair it"));
        }
        Ok((first, count))
    }

    /// Makes block `number`, in `cluster`, the first of those that it counts.
    fn add_block(&mut self, number: u64, cluster: ClusterNumber) -> Result<()> {
        let (entries, geometry) = (self.table.entries.len(), self.geometry());
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if index >= entries {
            let per_cluster = geometry.block_len() / ENTRY as usize;
            let len = (index + 1).max(entries + entries / 2).next_multiple_of(per_cluster);
            if len as u64 * ENTRY > REFCOUNT_TABLE_BYTES_MAX {
                return Err(Error::limit("File too large"));
            }
            self.table.entries.resize(len, 0);
            self.outgrown = true;
        }
        let mut bytes = vec![0; geometry.block_len()];
        geometry.set(&mut bytes, geometry.place(cluster).1, 1);
        self.blocks.insert(number, Block { bytes, changed: true });
        self.table.set(number, cluster.offset(geometry.cluster_bits));
        widen(&mut self.changed, index..index + 1);
        Ok(())
    }

    /// What began in cluster `old` and could never be free is in other clusters now.
    pub fn moved(&mut self, old: ClusterNumber, first: ClusterNumber, count: u64) {
        self.taken.retain(|range| range.start != old);
        self.taken.push(first..first + count);
    }

    /// Gives clusters up, later.
    pub fn release(&mut self, first: ClusterNumber, count: u64) {
        add_run(&mut self.released, first, count);
    }

    /// Gives up what `len` compressed bytes at `offset` refer to.
    pub fn release_bytes(&mut self, offset: FileOffset, len: u64) {
        let bits = self.geometry().cluster_bits;
        let last = ClusterNumber::of(offset.saturating_add(len.max(1) - 1), bits);
        let first = ClusterNumber::of(offset, bits);
        self.release(first, last - first + 1);
    }

    /// Whether anything is to be given up.
    pub fn has_releases(&self) -> bool {
        !self.released.is_empty()
    }

    /// Whether clusters lost their last reference.
    pub fn has_thinned(&self) -> bool {
        !self.thinned.is_empty()
    }

    /// Takes one reference from all that is given up. Nothing stable refers to it any more.
    pub fn apply_releases(&mut self) -> Result<()> {
        for (first, count) in core::mem::take(&mut self.released) {
            let mut at = first;
            while at < first.saturating_add(count) {
                at = self.decrement(at, first.saturating_add(count))?;
            }
        }
        Ok(())
    }

    /// Takes a reference from the clusters from `at` on, at most to `end` and to the end of a block; returns where it
    /// stopped.
    fn decrement(&mut self, at: ClusterNumber, end: ClusterNumber) -> Result<ClusterNumber> {
        let geometry = self.geometry();
        let (number, index) = geometry.place(at);
        let end = geometry.first(number + 1).min(end);
        let mut free: Vec<(ClusterNumber, u64)> = Vec::new();
        let mut block = self.block(number)?;
        for (cluster, index) in cluster::each(at..end).zip(index..) {
            let count = block.as_ref().map_or(0, |block| geometry.get(&block.bytes, index));
            let Some(block) = block.as_deref_mut().filter(|_| count != 0) else {
                let text = alloc::format!("the image is corrupt: cluster {cluster} has no reference left");
                return Err(Error::corrupt(text).with_hint("qemu-img check -r all may repair it"));
            };
            geometry.set(&mut block.bytes, index, count - 1);
            block.changed = true;
            if count == 1 {
                add_run(&mut free, cluster, 1);
            }
        }
        for (first, count) in free {
            self.free(first, count);
            self.thinned.insert(number);
        }
        Ok(end)
    }

    /// Nothing counts these clusters any more.
    pub(super) fn free(&mut self, first: ClusterNumber, count: u64) {
        self.next = self.next.min(first);
        add_run(&mut self.freed, first, count);
    }

    /// The steps that write the blocks that changed, and a table that has to move.
    pub fn write(&mut self, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        if self.outgrown && self.new_place.is_none() {
            // Room for the table may need another block, which the table has room for.
            let (clusters, bits) = (self.table.clusters(self.table.entries.len()), self.geometry().cluster_bits);
            let first = self.allocate(clusters)?;
            let len = (clusters << bits) / ENTRY;
            if self.table.entries.len() as u64 > len {
                return Err(Error::limit("File too large"));
            }
            self.new_place = Some(first.offset(bits));
        }
        for (number, block) in self.blocks.changed() {
            let offset = self.table.offset(number);
            if offset != FileOffset::ZERO {
                steps.push(Placed::Owned { device: self.device, offset, data: block.bytes.clone() });
                block.changed = false;
            }
        }
        if let Some(offset) = self.new_place {
            steps.push(Placed::Owned {
                device: self.device,
                offset,
                data: self.table.encoded(0..self.table.entries.len()),
            });
        }
        Ok(())
    }

    /// Makes blocks and a table that were written known, and then that is stable.
    pub fn publish(&mut self) -> Result<()> {
        let (machine, device, bits) = (self.machine, self.device, self.geometry().cluster_bits);
        if let Some(offset) = self.new_place.take() {
            let len = self.table.entries.len() as u64 * ENTRY;
            let (old, old_len) = core::mem::replace(&mut self.table.place, (offset, len));
            self.table.publish(machine, device)?;
            let old = ClusterNumber::of(old, bits);
            self.moved(old, ClusterNumber::of(offset, bits), len >> bits);
            self.release(old, old_len >> bits);
            (self.outgrown, self.changed) = (false, 0..0);
        } else if !self.changed.is_empty() {
            let range = core::mem::replace(&mut self.changed, 0..0);
            self.table.write(machine, device, range)?;
        }
        Ok(())
    }
}
