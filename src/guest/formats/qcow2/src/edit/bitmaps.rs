//! The bitmaps of an image changed: added, given up, cleared, merged.
//!
//! What changes is written to new places: bits and tables ([`Bits`]), then a new directory, then the header that names it.
//! The old directory and what it alone referred to are given up last. Cut anywhere, the image has the bitmaps as they were
//! or as they were wanted, none of them in between, and has leaks at worst.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::{BitmapEditor, Bitmaps, DirtyBitmap, Error, FileOffset, Result, Step};

use super::bits::Bits;
use super::head::{self, Head};
use super::{Qcow2Editor, State, WAITING_MAX};
use crate::bitmaps::{
    BITMAP_MAX, Bitmap, COUNT_MAX, DIRECTORY_MAX, Directory, FLAG_AUTO, GRANULARITY_BITS, NAME_MAX, NAMES_MAX,
    TABLE_MAX, cluster, encode_entry, entry_len,
};
use crate::cluster::ClusterNumber;
use crate::layout::AUTOCLEAR_KNOWN;
use crate::window::numbers;

/// The bitmaps as they are going to be.
pub struct Work {
    list: Vec<Bitmap>,
    /// The bits of one of them, by its number: of more than one they are never in memory.
    bits: Option<(usize, Bits)>,
    /// Where the file's directory is.
    directory: Option<Directory>,
    changed: bool,
    /// A change began and has not ended: nothing of it may be stored.
    broken: bool,
}

impl Work {
    /// As they are.
    pub const fn new(list: Vec<Bitmap>, directory: Option<Directory>) -> Self {
        Self { list, bits: None, directory, changed: false, broken: false }
    }

    /// There is none.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn find(&self, name: &[u8]) -> Result<usize> {
        let missing = || Error::usage(format!("Dirty bitmap '{}' not found", String::from_utf8_lossy(name)));
        self.list.iter().position(|bitmap| bitmap.name == name).ok_or_else(missing)
    }

    fn directory_len(&self) -> u64 {
        self.list.iter().map(|bitmap| entry_len(bitmap.name.len())).sum()
    }
}

impl BitmapEditor for Qcow2Editor<'_> {
    fn check_supported(&self) -> Result<()> {
        if self.header.version > 2 {
            Ok(())
        } else {
            Err(Error::unsupported("Cannot store dirty bitmaps in qcow2 v2 files"))
        }
    }

    fn list(&self) -> Vec<DirtyBitmap> {
        self.work.lock().list.iter().map(Bitmap::shown).collect()
    }

    fn add(&self, new: &DirtyBitmap) -> Result<()> {
        self.check_supported()?;
        let (state, work) = (&mut *self.state.lock(), &mut *self.work.lock());
        if !GRANULARITY_BITS.contains(&new.granularity_bits) {
            return Err(Error::usage("Granularity must be power of 2 and at least 512"));
        }
        let bits = self.header.size.div_ceil(1 << new.granularity_bits);
        let entries = bits.div_ceil(8).div_ceil(self.header.cluster_size());
        if entries.saturating_mul(self.header.cluster_size()) > BITMAP_MAX || entries > u64::from(TABLE_MAX) {
            return Err(Error::limit("Too much space will be occupied by the bitmap. Use larger granularity"));
        }
        if new.name.len() > NAME_MAX {
            return Err(Error::limit(format!("Name length exceeds maximum ({NAME_MAX} characters)")));
        }
        if entries == 0 {
            return Err(Error::unsupported("an empty disk has no bitmaps"));
        }
        if work.list.len() >= COUNT_MAX as usize {
            return Err(Error::limit("Maximum number of persistent bitmaps is already reached"));
        }
        if work.directory_len() + entry_len(new.name.len()) > DIRECTORY_MAX {
            return Err(Error::limit("Not enough space in the bitmap directory"));
        }
        let names: usize = work.list.iter().map(|bitmap| bitmap.name.len()).sum();
        if names + new.name.len() > NAMES_MAX {
            return Err(Error::limit("the names of the bitmaps are too long"));
        }
        work.broken = true;
        self.put_bits(state, work)?;
        work.bits = Some((work.list.len(), Bits::none(entries)));
        work.list.push(Bitmap {
            name: new.name.clone(),
            flags: if new.auto { FLAG_AUTO } else { 0 },
            granularity_bits: new.granularity_bits,
            table: (FileOffset::ZERO, entries),
            entry_at: FileOffset::ZERO,
        });
        (work.changed, work.broken) = (true, false);
        Ok(())
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        let (state, work) = (&mut *self.state.lock(), &mut *self.work.lock());
        let index = work.find(name)?;
        work.broken = true;
        self.put_bits(state, work)?;
        let (offset, entries) = work.list.remove(index).table;
        let (bits, size, counts) = (self.header.cluster_bits, self.header.cluster_size(), &mut state.counts);
        // What has no meaning, in one that is inconsistent, refers to nothing, and what is not in the file was never counted.
        let behind = ClusterNumber::behind(self.machine.stat(self.device)?.end(), bits);
        numbers(self.machine.source(), self.device, offset, entries, &mut |_, table| {
            let places =
                table.iter().filter_map(|entry| cluster(*entry, size).filter(|place| *place != FileOffset::ZERO));
            let clusters = places.map(|place| ClusterNumber::of(place, bits)).filter(|cluster| *cluster < behind);
            clusters.for_each(|cluster| counts.release(cluster, 1));
            Ok(())
        })?;
        let first = ClusterNumber::of(offset, bits);
        if first < behind {
            counts.release(first, (entries * 8).div_ceil(size).min(behind - first));
        }
        (work.changed, work.broken) = (true, false);
        Ok(())
    }

    fn clear(&self, name: &[u8]) -> Result<()> {
        let (state, work) = (&mut *self.state.lock(), &mut *self.work.lock());
        let index = work.find(name)?;
        work.broken = true;
        self.bits_of(state, work, index)?.clear(self, &mut state.counts)?;
        work.broken = false;
        Ok(())
    }

    fn set_auto(&self, name: &[u8], auto: bool) -> Result<()> {
        let work = &mut *self.work.lock();
        let index = work.find(name)?;
        if let Some(bitmap) = work.list.get_mut(index) {
            let flags = if auto { bitmap.flags | FLAG_AUTO } else { bitmap.flags & !FLAG_AUTO };
            work.changed |= flags != bitmap.flags;
            bitmap.flags = flags;
        }
        Ok(())
    }

    fn merge(&self, name: &[u8], from: &dyn Bitmaps, index: usize) -> Result<()> {
        let (state, work) = (&mut *self.state.lock(), &mut *self.work.lock());
        let into = work.find(name)?;
        let shift = work.list.get(into).map_or(0, |bitmap| u32::from(bitmap.granularity_bits));
        work.broken = true;
        let (bits, counts) = (self.bits_of(state, work, into)?, &mut state.counts);
        from.runs(index, &mut |start, end| {
            bits.set(self, counts, start.unbounded_shr(shift)..end.div_ceil(1u64.unbounded_shl(shift)))
        })?;
        work.broken = false;
        Ok(())
    }

    fn store(&self) -> Result<()> {
        let (state, work) = (&mut *self.state.lock(), &mut *self.work.lock());
        if !work.changed && !work.broken {
            return Ok(());
        }
        if self.changes_content || work.broken {
            return Err(Error::corrupt(
                "bitmaps that follow a change of the disk, or are half changed, are to be stored",
            ));
        }
        self.put_bits(state, work)?;
        let clusters = |bytes: u64| bytes.div_ceil(self.header.cluster_size());
        let mut directory = None;
        if !work.list.is_empty() {
            let mut bytes: Vec<u8> = work.list.iter().flat_map(encode_entry).collect();
            let (len, count) = (bytes.len() as u64, u32::try_from(work.list.len()).unwrap_or(u32::MAX));
            let first = state.counts.allocate(clusters(len))?;
            let offset = first.offset(self.header.cluster_bits);
            directory = Some(Directory::new(offset, len, count)?);
            bytes.resize((clusters(len) << self.header.cluster_bits) as usize, 0);
            self.machine.submit(&[Step::Write { device: self.device, offset, data: &bytes }])?;
        }
        self.clear_stale()?;
        let autoclear = self.header.autoclear & AUTOCLEAR_KNOWN;
        let head = Head::read(self.machine, self.device, &self.header)?;
        // There is room for it, before anything is in the image.
        let head = head.with_bitmaps(directory, autoclear).steps()?;
        self.settle_new(state)?;
        head::carry_out(self.machine, self.device, &head)?;
        if let Some(old) = core::mem::replace(&mut work.directory, directory) {
            let first = ClusterNumber::of(old.offset, self.header.cluster_bits);
            state.counts.release(first, clusters(old.size));
        }
        work.changed = false;
        self.settle_old(state)?;
        self.give_back(state)
    }
}

impl Qcow2Editor<'_> {
    /// The bits of bitmap number `index`, which are going to change.
    fn bits_of<'w>(&self, state: &mut State<'_>, work: &'w mut Work, index: usize) -> Result<&'w mut Bits> {
        if work.bits.as_ref().is_none_or(|(open, _)| *open != index) {
            self.put_bits(state, work)?;
            let table = work.list.get(index).map(|bitmap| bitmap.table).unwrap_or_default();
            work.bits = Some((index, Bits::load(self, table)?));
            work.changed = true;
        }
        work.bits.as_mut().map(|(_, bits)| bits).ok_or_else(|| Error::corrupt("a bitmap without bits"))
    }

    /// Writes the bits that are in memory, and their table to a new place.
    fn put_bits(&self, state: &mut State<'_>, work: &mut Work) -> Result<()> {
        let Some((index, bits)) = work.bits.take() else { return Ok(()) };
        let table = bits.store(self, &mut state.counts)?;
        if let Some(bitmap) = work.list.get_mut(index) {
            let (offset, entries) = core::mem::replace(&mut bitmap.table, table);
            if offset != FileOffset::ZERO {
                let clusters = (entries * 8).div_ceil(self.header.cluster_size());
                state.counts.release(ClusterNumber::of(offset, self.header.cluster_bits), clusters);
            }
        }
        if state.counts.waiting() > WAITING_MAX {
            self.settle_new(state)?;
        }
        Ok(())
    }
}
