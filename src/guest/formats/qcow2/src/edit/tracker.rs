//! Persistent bitmaps of an image that is being changed: they follow what the disk shows, and its size.
//!
//! Before the first change every bitmap is marked in use, and that is stable: a run that is cut leaves bitmaps that say
//! themselves that they are inconsistent, never ones that miss a change. In the end tables and bits are written, and then
//! the directory's entries say that they hold again (spec, "Bitmap directory").

use alloc::vec;
use alloc::vec::Vec;

use instar_image::{DeviceId, Error, FileOffset, Machine, Result, Step};

use crate::bitmaps::{self, ALL_ONES, Bitmap, FLAG_AUTO, FLAG_IN_USE};
use crate::cluster::ClusterNumber;
use crate::header::Header;
use crate::refcount::counts::Counts;

/// Ranges that wait before they are put into the bitmaps.
const RANGES_MAX: usize = 1 << 14;

/// One bitmap's table, in memory.
struct Tracked {
    bitmap: Bitmap,
    table: Vec<u64>,
    /// The table has to be written, in a new place if its length changed.
    changed: bool,
}

/// Notes which bytes of the disk have changed, in every persistent bitmap.
pub struct Tracker<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    cluster_bits: u32,
    bitmaps: Vec<Tracked>,
    /// Every bitmap is marked in use.
    open: bool,
    /// Ranges of the disk that show something else now: start, end.
    dirty: Vec<(u64, u64)>,
}

impl<'a> Tracker<'a> {
    /// Reads the tables of those that are not inconsistent already.
    pub fn open(machine: &'a dyn Machine, device: DeviceId, header: &Header, list: &[Bitmap]) -> Result<Self> {
        let mut tracked = Vec::new();
        for bitmap in list.iter().filter(|b| b.flags & FLAG_IN_USE == 0) {
            // `bitmaps::load` has checked its length against the disk's size.
            let mut bytes = vec![0; (bitmap.table.1 * 8) as usize];
            machine.read(device, bitmap.table.0, &mut bytes)?;
            let table = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_be_bytes(*b)).collect();
            tracked.push(Tracked { bitmap: bitmap.clone(), table, changed: false });
        }
        let cluster_bits = header.cluster_bits;
        Ok(Self { machine, device, cluster_bits, bitmaps: tracked, open: false, dirty: Vec::new() })
    }

    fn write(&self, offset: FileOffset, data: &[u8]) -> Result<()> {
        self.machine.submit(&[Step::Write { device: self.device, offset, data }])
    }

    fn barrier(&self) -> Result<()> {
        self.machine.submit(&[Step::Barrier { device: self.device }])
    }

    /// The fields of the directory's entry that go together: offset and length of the table, flags.
    fn write_entry(&self, tracked: &Tracked, flags: u32) -> Result<()> {
        let (offset, entries) = tracked.bitmap.table;
        let mut fields = [0; 16];
        fields[..8].copy_from_slice(&offset.get().to_be_bytes());
        fields[8..12].copy_from_slice(&u32::try_from(entries).unwrap_or(u32::MAX).to_be_bytes());
        fields[12..].copy_from_slice(&flags.to_be_bytes());
        self.write(tracked.bitmap.entry_at, &fields)
    }

    /// Marks them in use, once.
    pub fn begin(&mut self) -> Result<()> {
        if self.open || self.bitmaps.is_empty() {
            return Ok(());
        }
        for tracked in &self.bitmaps {
            self.write_entry(tracked, tracked.bitmap.flags | FLAG_IN_USE)?;
        }
        self.open = true;
        self.barrier()
    }

    /// The disk is about to show something else there.
    pub fn touch(&mut self, at: u64, len: u64, counts: &mut Counts<'_>) -> Result<()> {
        if !self.bitmaps.iter().any(|t| t.bitmap.flags & FLAG_AUTO != 0) || len == 0 {
            return Ok(());
        }
        self.begin()?;
        match self.dirty.last_mut() {
            Some((_, end)) if *end == at => *end = at + len,
            _ => self.dirty.push((at, at + len)),
        }
        if self.dirty.len() > RANGES_MAX { self.set_bits(counts) } else { Ok(()) }
    }

    /// Sets the bits of what changed.
    fn set_bits(&mut self, counts: &mut Counts<'_>) -> Result<()> {
        let ranges = core::mem::take(&mut self.dirty);
        let mut list = core::mem::take(&mut self.bitmaps);
        for tracked in list.iter_mut().filter(|t| t.bitmap.flags & FLAG_AUTO != 0) {
            let granularity = u32::from(tracked.bitmap.granularity_bits);
            for (start, end) in &ranges {
                let (first, last) = (start.unbounded_shr(granularity), (end - 1).unbounded_shr(granularity));
                self.fill(tracked, first, last + 1, true, counts)?;
            }
        }
        self.bitmaps = list;
        Ok(())
    }

    /// Sets or clears bits `first` to `end`.
    fn fill(&self, tracked: &mut Tracked, first: u64, end: u64, set: bool, counts: &mut Counts<'_>) -> Result<()> {
        let bits = 8u64 << self.cluster_bits;
        let mut at = first;
        while at < end {
            let (index, stop) = ((at / bits) as usize, (at / bits + 1).saturating_mul(bits).min(end));
            let Some(entry) = tracked.table.get(index).copied() else { break };
            let same = if set { ALL_ONES } else { 0 };
            if entry != same {
                let offset = bitmaps::cluster(entry, 1 << self.cluster_bits)
                    .ok_or_else(|| Error::malformed("a bitmap's table is not valid"))?;
                let mut bytes = vec![if entry == ALL_ONES { 0xff } else { 0 }; 1 << self.cluster_bits];
                if offset != FileOffset::ZERO {
                    self.machine.read(self.device, offset, &mut bytes)?;
                }
                bitmaps::fill(&mut bytes, at % bits..at % bits + (stop - at), set);
                let old = ClusterNumber::of(offset, self.cluster_bits);
                let place = match offset {
                    FileOffset::ZERO => counts.allocate(1)?.offset(self.cluster_bits),
                    offset if counts.get(old)? == 1 => offset,
                    // What a repair has counted twice is something else's as well.
                    _ => {
                        counts.release(old, 1);
                        counts.allocate(1)?.offset(self.cluster_bits)
                    }
                };
                self.write(place, &bytes)?;
                tracked.changed |= place != offset;
                if let Some(entry) = tracked.table.get_mut(index) {
                    *entry = place.get();
                }
            }
            at = stop;
        }
        Ok(())
    }

    /// Makes them fit a disk of another size: new bits are clear, and none is left behind the end.
    pub fn resize(&mut self, size: u64, counts: &mut Counts<'_>) -> Result<()> {
        let mut list = core::mem::take(&mut self.bitmaps);
        for tracked in &mut list {
            let bits = size.div_ceil(1u64.unbounded_shl(u32::from(tracked.bitmap.granularity_bits)));
            let entries = bits.div_ceil(8).div_ceil(1 << self.cluster_bits) as usize;
            for entry in tracked.table.iter().skip(entries) {
                let offset = bitmaps::cluster(*entry, 1 << self.cluster_bits).unwrap_or_default();
                if offset != FileOffset::ZERO {
                    counts.release(ClusterNumber::of(offset, self.cluster_bits), 1);
                }
            }
            tracked.changed |= entries != tracked.table.len();
            tracked.table.resize(entries, 0);
            let end = (entries as u64).saturating_mul(8 << self.cluster_bits);
            self.fill(tracked, bits, end, false, counts)?;
        }
        self.bitmaps = list;
        Ok(())
    }

    /// Puts what is left into the bitmaps and their tables. The counts have to be settled before [`Tracker::end`].
    pub fn write_back(&mut self, counts: &mut Counts<'_>) -> Result<()> {
        if !self.open {
            return Ok(());
        }
        self.set_bits(counts)?;
        let mut list = core::mem::take(&mut self.bitmaps);
        for tracked in list.iter_mut().filter(|t| t.changed) {
            let (offset, entries) = tracked.bitmap.table;
            let clusters = |entries: u64| (entries * 8).div_ceil(1 << self.cluster_bits);
            // A new place always: until the directory says so, the old table is the one that counts its clusters.
            let new = counts.allocate(clusters(tracked.table.len() as u64))?;
            let new = new.offset(self.cluster_bits);
            counts.release(ClusterNumber::of(offset, self.cluster_bits), clusters(entries));
            let data: Vec<u8> = tracked.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.write(new, &data)?;
            tracked.bitmap.table = (new, tracked.table.len() as u64);
            tracked.changed = false;
        }
        self.bitmaps = list;
        Ok(())
    }

    /// They hold again; nothing else is to follow.
    pub fn end(&mut self) -> Result<()> {
        if !core::mem::replace(&mut self.open, false) {
            return Ok(());
        }
        for tracked in &self.bitmaps {
            self.write_entry(tracked, tracked.bitmap.flags)?;
        }
        self.barrier()
    }
}
