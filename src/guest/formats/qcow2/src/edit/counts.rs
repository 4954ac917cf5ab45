//! The refcounts of an existing image: handing out free clusters, giving clusters up, and the growth of the refcount
//! table.
//!
//! Clusters that are handed out are counted at once, in memory; those that are given up only by
//! [`Counts::apply_releases`], once nothing stable refers to them. Until then they are not handed out again.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::reader::Reader;
use instar_image::sealed::Placed;
use instar_image::{DeviceId, Error, Machine, Result, Step};

use crate::header::Header;
use crate::layout::{FILE_OFFSET_MAX, HEADER_LENGTH_V2, REFCOUNT_TABLE_BYTES_MAX, field};
use crate::refblock;
use crate::window::Window;

/// Blocks that are kept though they have not changed.
const KEPT: usize = 16;
/// Offsets of blocks in a table.
const TABLE_ENTRY: u64 = 8;
/// Bytes that file systems give back as one.
const GIVEN_BACK: u64 = 4096;
/// Clusters among which a place near to the file's beginning is looked for.
const LOOKED_AT: u64 = 1 << 16;
/// The lower bits of an entry of the table are reserved.
const BLOCK_OFFSET_MASK: u64 = !0x1ff;

/// Makes a range reach as far as another one does, too.
pub fn widen(range: &mut Range<usize>, by: Range<usize>) {
    let empty = range.start >= range.end;
    *range = if empty { by } else { range.start.min(by.start)..range.end.max(by.end) };
}

/// Adds clusters to runs of such: to the last one if they follow it.
fn add_run(runs: &mut Vec<(u64, u64)>, first: u64, count: u64) {
    match runs.last_mut() {
        Some((start, len)) if *start + *len == first => *len += count,
        _ => runs.push((first, count)),
    }
}

struct Block {
    bytes: Vec<u8>,
    changed: bool,
}

/// See the module. Clusters are numbered from the beginning of the file.
pub struct Counts<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    cluster_bits: u32,
    order: u32,
    /// Byte offsets of the blocks; 0: there is none.
    table: Vec<u64>,
    /// Where the table is in the file: byte offset, clusters.
    place: (u64, u64),
    /// The table has outgrown its place; where the new one is, once it has one.
    outgrown: bool,
    new_place: Option<u64>,
    /// Entries of the table that differ from the file's.
    changed: Range<usize>,
    blocks: BTreeMap<u64, Block>,
    /// No cluster below is free.
    next: u64,
    /// Runs of clusters to be given up: first, count.
    released: Vec<(u64, u64)>,
    /// Runs of clusters that lost their last reference: first, count.
    freed: Vec<(u64, u64)>,
    /// Blocks that count fewer clusters than before.
    thinned: BTreeSet<u64>,
    /// Clusters that can never be free, whatever the counts say.
    taken: Vec<Range<u64>>,
}

impl<'a> Counts<'a> {
    /// Reads the table.
    pub fn open(machine: &'a dyn Machine, device: DeviceId, header: &Header) -> Result<Self> {
        let mut window = Window::new(machine.source(), device);
        let fixed = Reader::new(window.bytes(0, HEADER_LENGTH_V2 as usize)?);
        let (offset, clusters) =
            (fixed.be64(field::REFCOUNT_OFFSET)?, u64::from(fixed.be32(field::REFCOUNT_CLUSTERS)?));
        let bytes_len = clusters << header.cluster_bits;
        if bytes_len > REFCOUNT_TABLE_BYTES_MAX {
            return Err(Error::limit("Reference count table too large"));
        }
        let mut bytes = vec![0; bytes_len as usize];
        machine.read(device, offset, &mut bytes)?;
        let table: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().map(|b| u64::from_be_bytes(*b) & BLOCK_OFFSET_MASK).collect();
        let cluster = header.cluster_size();
        if let Some(bad) = table.iter().find(|o| !o.is_multiple_of(cluster)) {
            return Err(Error::corrupt(alloc::format!(
                "qcow2: Image is corrupt: Refblock offset {bad:#x} unaligned; further non-fatal corruption events will \
                 be suppressed"
            )));
        }
        let l1_bytes = u64::from(header.l1_size) * TABLE_ENTRY;
        let run =
            |offset: u64, bytes: u64| offset >> header.cluster_bits..offset.saturating_add(bytes).div_ceil(cluster);
        let taken = vec![0..1, run(offset, bytes_len), run(header.l1_offset, l1_bytes)];
        Ok(Self {
            machine,
            device,
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            table,
            place: (offset, clusters),
            outgrown: false,
            new_place: None,
            changed: 0..0,
            blocks: BTreeMap::new(),
            next: 0,
            released: Vec::new(),
            freed: Vec::new(),
            thinned: BTreeSet::new(),
            taken,
        })
    }

    /// Clusters that one block counts.
    const fn reach(&self) -> u64 {
        (8 << self.cluster_bits) >> self.order
    }

    /// The largest count.
    pub const fn max(&self) -> u64 {
        refblock::max(self.order)
    }

    /// Bytes that wait in memory.
    pub fn waiting(&self) -> usize {
        let blocks = self.blocks.values().filter(|b| b.changed).count() << self.cluster_bits;
        blocks.saturating_add((self.released.len() + self.freed.len()).saturating_mul(16))
    }

    /// The block of that number, if there is one.
    fn block(&mut self, number: u64) -> Result<Option<&mut Block>> {
        let offset = usize::try_from(number).ok().and_then(|i| self.table.get(i)).copied().unwrap_or(0);
        if offset == 0 {
            return Ok(None);
        }
        if !self.blocks.contains_key(&number) {
            let mut bytes = vec![0; 1 << self.cluster_bits];
            self.machine.read(self.device, offset, &mut bytes)?;
            self.forget_unchanged();
            self.blocks.insert(number, Block { bytes, changed: false });
        }
        Ok(self.blocks.get_mut(&number))
    }

    fn forget_unchanged(&mut self) {
        if self.blocks.len() > KEPT && self.blocks.values().filter(|b| !b.changed).count() > KEPT {
            self.blocks.retain(|_, block| block.changed);
        }
    }

    /// The count of a cluster.
    pub fn get(&mut self, cluster: u64) -> Result<u64> {
        let (order, index) = (self.order, (cluster % self.reach()) as usize);
        let block = self.block(cluster / self.reach())?;
        Ok(block.map_or(0, |b| refblock::get(&b.bytes, order, index)))
    }

    fn set(&mut self, cluster: u64, count: u64) -> Result<()> {
        let (order, index) = (self.order, (cluster % self.reach()) as usize);
        let block =
            self.block(cluster / self.reach())?.ok_or_else(|| Error::corrupt("a cluster that nothing counts"))?;
        refblock::set(&mut block.bytes, order, index, count);
        block.changed = true;
        Ok(())
    }

    fn set_run(&mut self, first: u64, count: u64, to: u64) -> Result<()> {
        let (order, reach) = (self.order, self.reach());
        let mut at = first;
        while at < first + count {
            let block = self.block(at / reach)?.ok_or_else(|| Error::corrupt("a cluster that nothing counts"))?;
            let end = (at / reach + 1).saturating_mul(reach).min(first + count);
            for cluster in at..end {
                refblock::set(&mut block.bytes, order, (cluster % reach) as usize, to);
            }
            block.changed = true;
            at = end;
        }
        Ok(())
    }

    /// One more reference to a cluster that has some; false if its count has no room.
    pub fn add_reference(&mut self, cluster: u64) -> Result<bool> {
        let count = self.get(cluster)?;
        if count >= self.max() {
            return Ok(false);
        }
        self.set(cluster, count + 1)?;
        Ok(true)
    }

    /// Hands out at most `most` adjacent clusters: the first that are free. Returns the number of the first and how many.
    pub fn allocate_some(&mut self, most: u64) -> Result<(u64, u64)> {
        let (first, count) = self.free_run(self.next, most, false)?;
        self.set_run(first, count, 1)?;
        self.next = first + count;
        Ok((first, count))
    }

    /// Hands out exactly `count` adjacent clusters.
    pub fn allocate(&mut self, count: u64) -> Result<u64> {
        let from = self.next;
        let (first, _) = self.free_run(from, count, true)?;
        self.set_run(first, count, 1)?;
        if first == from {
            self.next = first + count;
        }
        Ok(first)
    }

    /// Takes back clusters that were handed out and that nothing was written to.
    pub fn take_back(&mut self, first: u64, count: u64) -> Result<()> {
        self.set_run(first, count, 0)?;
        self.next = self.next.min(first);
        Ok(())
    }

    /// The first run of free clusters from `from` on: `all` of the number wanted, or as many as there are.
    fn free_run(&mut self, from: u64, wanted: u64, all: bool) -> Result<(u64, u64)> {
        let (mut first, mut count) = (from, 0);
        while count < wanted.max(1) {
            let cluster = first + count;
            if cluster >= FILE_OFFSET_MAX >> self.cluster_bits {
                return Err(Error::limit("File too large"));
            }
            let (number, order, reach) = (cluster / self.reach(), self.order, self.reach());
            let Some(block) = self.block(number)? else {
                if count > 0 && !all {
                    break;
                }
                self.add_block(number, cluster)?;
                (first, count) = (cluster + 1, 0);
                continue;
            };
            // Within one block: past what is taken, then over what is free.
            let used = |i: &u64| refblock::get(&block.bytes, order, *i as usize) != 0;
            let start = cluster % reach;
            if count == 0 {
                let Some(free) = (start..reach).find(|i| !used(i)) else {
                    first = (number + 1) * reach;
                    continue;
                };
                (first, count) = (number * reach + free, 1);
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
    fn add_block(&mut self, number: u64, cluster: u64) -> Result<()> {
        let entries = self.table.len();
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if index >= entries {
            let per_cluster = 1usize << (self.cluster_bits - 3);
            let len = (index + 1).max(entries + entries / 2).next_multiple_of(per_cluster);
            if len as u64 * TABLE_ENTRY > REFCOUNT_TABLE_BYTES_MAX {
                return Err(Error::limit("File too large"));
            }
            self.table.resize(len, 0);
            self.outgrown = true;
        }
        let (order, inside) = (self.order, (cluster % self.reach()) as usize);
        let mut bytes = vec![0; 1 << self.cluster_bits];
        refblock::set(&mut bytes, order, inside, 1);
        self.blocks.insert(number, Block { bytes, changed: true });
        if let Some(entry) = self.table.get_mut(index) {
            *entry = cluster << self.cluster_bits;
        }
        widen(&mut self.changed, index..index + 1);
        Ok(())
    }

    /// What began in cluster `old` and could never be free is in other clusters now.
    pub fn moved(&mut self, old: u64, first: u64, count: u64) {
        self.taken.retain(|range| range.start != old);
        self.taken.push(first..first + count);
    }

    /// Gives clusters up, later.
    pub fn release(&mut self, first: u64, count: u64) {
        add_run(&mut self.released, first, count);
    }

    /// Gives up what `len` compressed bytes at byte `offset` refer to.
    pub fn release_bytes(&mut self, offset: u64, len: u64) {
        let (first, last) = (offset >> self.cluster_bits, offset.saturating_add(len.max(1) - 1) >> self.cluster_bits);
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
    fn decrement(&mut self, at: u64, end: u64) -> Result<u64> {
        let (order, reach) = (self.order, self.reach());
        let end = (at / reach + 1).saturating_mul(reach).min(end);
        let mut free: Vec<(u64, u64)> = Vec::new();
        let mut block = self.block(at / reach)?;
        for cluster in at..end {
            let index = (cluster % reach) as usize;
            let count = block.as_ref().map_or(0, |b| refblock::get(&b.bytes, order, index));
            let Some(block) = block.as_deref_mut().filter(|_| count != 0) else {
                let text = alloc::format!("the image is corrupt: cluster {cluster} has no reference left");
                return Err(Error::corrupt(text).with_hint("qemu-img check -r all may repair it"));
            };
            refblock::set(&mut block.bytes, order, index, count - 1);
            block.changed = true;
            if count == 1 {
                add_run(&mut free, cluster, 1);
            }
        }
        for (first, count) in free {
            self.free(first, count);
            self.thinned.insert(at / reach);
        }
        Ok(end)
    }

    /// Nothing counts these clusters any more.
    fn free(&mut self, first: u64, count: u64) {
        self.next = self.next.min(first);
        add_run(&mut self.freed, first, count);
    }

    /// The runs of clusters that lost their last reference since, and that were not handed out again; with free ones beside
    /// them, up to what a file system gives back as one.
    pub fn take_freed(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut freed = core::mem::take(&mut self.freed);
        freed.sort_unstable();
        let unit = (GIVEN_BACK >> self.cluster_bits).max(1);
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        for (first, count) in freed {
            let start = (first / unit * unit).max(at);
            let end = first.saturating_add(count).next_multiple_of(unit);
            for cluster in start..end {
                if self.get(cluster)? == 0 {
                    add_run(&mut runs, cluster, 1);
                }
            }
            at = at.max(end);
        }
        Ok(runs)
    }

    /// Takes `count` adjacent clusters that are free and lie before cluster `below`, if they are soon found.
    pub fn take_low(&mut self, count: u64, below: u64) -> Result<Option<u64>> {
        let (mut first, mut end) = (0, 0);
        while end - first < count && end < below.min(LOOKED_AT) {
            let is_free = self.get(end)? == 0 && !self.taken.iter().any(|range| range.contains(&end));
            end += 1;
            if !is_free {
                first = end;
            }
        }
        if end - first < count || !self.has_block(first, count) {
            return Ok(None);
        }
        self.set_run(first, count, 1)?;
        Ok(Some(first))
    }

    /// Whether there are blocks for those clusters.
    fn has_block(&self, first: u64, count: u64) -> bool {
        let numbers = first / self.reach()..=(first + count - 1) / self.reach();
        numbers.into_iter().all(|n| usize::try_from(n).ok().and_then(|n| self.table.get(n)).is_some_and(|o| *o != 0))
    }

    /// Gives the table a place nearer to the file's beginning, as short as it can be; false: there is none. As if it had
    /// outgrown its place: to be written and published.
    pub fn sink_table(&mut self) -> Result<bool> {
        let used = self.table.iter().rposition(|offset| *offset != 0).map_or(0, |last| last + 1);
        let clusters = (used as u64 * TABLE_ENTRY).div_ceil(1 << self.cluster_bits).max(1);
        let Some(first) = self.take_low(clusters, self.place.0 >> self.cluster_bits)? else { return Ok(false) };
        self.table.resize(((clusters << self.cluster_bits) / TABLE_ENTRY) as usize, 0);
        (self.outgrown, self.new_place) = (true, Some(first << self.cluster_bits));
        Ok(true)
    }

    /// Takes those blocks out of the table that have come to count nothing but themselves; false: there were none.
    /// [`Counts::publish`] makes that known; then they are to be given up, like all that was released.
    pub fn drop_empty_blocks(&mut self) -> Result<bool> {
        let mut any = false;
        for number in core::mem::take(&mut self.thinned) {
            let (cluster_bits, order, reach) = (self.cluster_bits, self.order, self.reach());
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            let cluster = self.table.get(index).copied().unwrap_or(0) >> cluster_bits;
            let Some(block) = self.block(number)? else { continue };
            let own = (cluster / reach == number).then_some((cluster % reach) as usize);
            let others = (0..reach as usize).filter(|i| Some(*i) != own);
            if others.into_iter().any(|i| refblock::get(&block.bytes, order, i) != 0) {
                continue;
            }
            self.blocks.remove(&number);
            if let Some(entry) = self.table.get_mut(index) {
                *entry = 0;
            }
            widen(&mut self.changed, index..index + 1);
            match own {
                Some(_) => self.free(cluster, 1),
                None => self.release(cluster, 1),
            }
            any = true;
        }
        Ok(any)
    }

    /// The steps that write the blocks that changed, and a table that has to move.
    pub fn write(&mut self, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        if self.outgrown && self.new_place.is_none() {
            // Room for the table may need another block, which the table has room for.
            let clusters = (self.table.len() as u64 * TABLE_ENTRY).div_ceil(1 << self.cluster_bits);
            let first = self.allocate(clusters)?;
            let len = (clusters << self.cluster_bits) / TABLE_ENTRY;
            if self.table.len() as u64 > len {
                return Err(Error::limit("File too large"));
            }
            self.new_place = Some(first << self.cluster_bits);
        }
        for (number, block) in &mut self.blocks {
            let offset = usize::try_from(*number).ok().and_then(|i| self.table.get(i)).copied().unwrap_or(0);
            if block.changed && offset != 0 {
                steps.push(Placed::Owned { device: self.device, offset, data: block.bytes.clone() });
                block.changed = false;
            }
        }
        if let Some(offset) = self.new_place {
            steps.push(Placed::Owned { device: self.device, offset, data: self.encoded(0..self.table.len()) });
        }
        Ok(())
    }

    fn encoded(&self, range: Range<usize>) -> Vec<u8> {
        self.table.get(range).unwrap_or_default().iter().flat_map(|offset| offset.to_be_bytes()).collect()
    }

    /// Makes blocks and a table that were written known, and then that is stable.
    pub fn publish(&mut self) -> Result<()> {
        let device = self.device;
        let barrier = Step::Barrier { device };
        if let Some(offset) = self.new_place.take() {
            let clusters = (self.table.len() as u64 * TABLE_ENTRY) >> self.cluster_bits;
            let mut fields = [0; 12];
            fields[..8].copy_from_slice(&offset.to_be_bytes());
            fields[8..].copy_from_slice(&u32::try_from(clusters).unwrap_or(u32::MAX).to_be_bytes());
            let at = field::REFCOUNT_OFFSET as u64;
            self.machine.submit(&[Step::Write { device, offset: at, data: &fields }])?;
            self.machine.submit(&[barrier])?;
            let (old, count) = core::mem::replace(&mut self.place, (offset, clusters));
            self.moved(old >> self.cluster_bits, offset >> self.cluster_bits, clusters);
            self.release(old >> self.cluster_bits, count);
            (self.outgrown, self.changed) = (false, 0..0);
        } else if !self.changed.is_empty() {
            let range = core::mem::replace(&mut self.changed, 0..0);
            let offset = self.place.0 + range.start as u64 * TABLE_ENTRY;
            let data = self.encoded(range);
            self.machine.submit(&[Step::Write { device, offset, data: &data }])?;
            self.machine.submit(&[barrier])?;
        }
        Ok(())
    }

    /// The byte at which a file of `len` bytes may end: behind the last cluster that is in use.
    pub fn end(&mut self, len: u64) -> Result<u64> {
        let mut end = len.div_ceil(1 << self.cluster_bits);
        while end > 0 {
            let (number, order) = ((end - 1) / self.reach(), self.order);
            let start = number * self.reach();
            let Some(block) = self.block(number)? else {
                end = start;
                continue;
            };
            match (start..end).rev().find(|c| refblock::get(&block.bytes, order, (c - start) as usize) != 0) {
                Some(last) => return Ok(len.min((last + 1) << self.cluster_bits)),
                None => end = start,
            }
        }
        Ok(len)
    }
}
