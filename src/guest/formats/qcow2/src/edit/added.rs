//! New bitmaps for an image: bits and tables in new places, then a new directory, then the header that names it. The old
//! directory is given up last, so that a run that is cut leaves leaks at worst.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::{AddBitmaps, Bitmaps, DirtyBitmap, Error, Result, Step};

use super::head::Head;
use super::{Qcow2Editor, State, WAITING_MAX};
use crate::bitmaps::{ALL_ONES, BITMAP_MAX, Directory, FLAG_AUTO, encode_entry};
use crate::layout::AUTOCLEAR_KNOWN;
use crate::refcount::counts::Counts;

/// One bitmap's bits on their way into the file: a cluster of them at a time.
struct Bits<'b, 'a> {
    editor: &'b Qcow2Editor<'a>,
    table: Vec<u64>,
    /// The cluster of bits that is being filled, and its number.
    bytes: Vec<u8>,
    index: usize,
}

impl Bits<'_, '_> {
    /// Sets bits `first..end`, which follow those that were set before or touch them.
    fn set(&mut self, counts: &mut Counts<'_>, first: u64, end: u64) -> Result<()> {
        let each = self.bytes.len() as u64 * 8;
        let mut at = first;
        while at < end {
            let index = usize::try_from(at / each).unwrap_or(usize::MAX);
            if index != self.index {
                self.put(counts)?;
                self.index = index;
            }
            let stop = (at / each + 1).saturating_mul(each).min(end);
            for bit in at % each..at % each + (stop - at) {
                if let Some(byte) = self.bytes.get_mut((bit / 8) as usize) {
                    *byte |= 1 << (bit % 8);
                }
            }
            at = stop;
        }
        Ok(())
    }

    /// Gives the cluster its place, if it needs one.
    fn put(&mut self, counts: &mut Counts<'_>) -> Result<()> {
        let Some(entry) = self.table.get_mut(self.index) else { return Ok(()) };
        let editor = self.editor;
        if self.bytes.iter().all(|byte| *byte == 0xff) {
            *entry = ALL_ONES;
        } else if self.bytes.iter().any(|byte| *byte != 0) {
            *entry = counts.allocate(1)? << editor.header.cluster_bits;
            editor.machine.submit(&[Step::Write { device: editor.device, offset: *entry, data: &self.bytes }])?;
        }
        self.bytes.fill(0);
        Ok(())
    }
}

impl AddBitmaps for Qcow2Editor<'_> {
    fn add(&self, from: &dyn Bitmaps, wanted: &[usize], size: u64) -> Result<()> {
        let state = &mut *self.state.lock();
        let list = from.list();
        let list: Vec<(usize, &DirtyBitmap)> = wanted.iter().filter_map(|i| Some((*i, list.get(*i)?))).collect();
        let taken = |b: &DirtyBitmap| self.list.iter().any(|there| there.name == b.name);
        if let Some((_, bitmap)) = list.iter().rfind(|(_, b)| taken(b)) {
            let name = String::from_utf8_lossy(&bitmap.name);
            return Err(Error::usage(format!("Failed to create bitmap {name}: Bitmap already exists: {name}")));
        }
        let Some((_, last)) = list.last() else { return Ok(()) };
        let there = self.header.size;
        if there != size {
            return Err(Error::usage(format!(
                "Failed to populate bitmap {}: Bitmaps are of different sizes (destination size is {there}, source size is \
                 {size}) and can't be merged",
                String::from_utf8_lossy(&last.name)
            )));
        }
        self.clear_stale()?;
        let mut directory = self.directory_bytes()?;
        let old = self.directory.map(|d| (d.offset, d.size));
        let mut count = self.directory.map_or(0, Directory::count);
        for (index, bitmap) in list {
            let table = self.write_bits(state, from, index, bitmap)?;
            directory.extend_from_slice(&encode_entry(bitmap, table, if bitmap.auto { FLAG_AUTO } else { 0 }));
            count += 1;
            if state.counts.waiting() > WAITING_MAX {
                self.settle_new(state)?;
            }
        }
        let size = directory.len() as u64;
        let clusters = |bytes: u64| bytes.div_ceil(self.header.cluster_size());
        let offset = state.counts.allocate(clusters(size))? << self.header.cluster_bits;
        directory.resize((clusters(size) << self.header.cluster_bits) as usize, 0);
        let new = Directory::new(offset, size, count)?;
        let autoclear = self.header.autoclear & AUTOCLEAR_KNOWN;
        let head = || Head::read(self.machine, self.device, &self.header)?.with_bitmaps(new, autoclear).encode();
        // There is room for it, before anything is in the image.
        head()?;
        self.machine.submit(&[Step::Write { device: self.device, offset, data: &directory }])?;
        self.settle_new(state)?;
        self.machine.submit(&[Step::Write { device: self.device, offset: 0, data: &head()? }])?;
        self.barrier()?;
        if let Some((offset, size)) = old {
            state.counts.release(offset >> self.header.cluster_bits, clusters(size));
        }
        self.settle_old(state)
    }
}

impl Qcow2Editor<'_> {
    /// Writes one bitmap's bits and table; returns the table's byte offset and entries.
    fn write_bits(
        &self,
        state: &mut State<'_>,
        from: &dyn Bitmaps,
        index: usize,
        bitmap: &DirtyBitmap,
    ) -> Result<(u64, u64)> {
        let shift = u32::from(bitmap.granularity_bits);
        let cluster = self.header.cluster_size();
        let bits = self.header.size.div_ceil(1u64.unbounded_shl(shift));
        let entries = bits.div_ceil(8).div_ceil(cluster).max(1);
        if entries.saturating_mul(cluster) > BITMAP_MAX {
            return Err(Error::limit("Bitmap is too large")
                .context(format!("Failed to create bitmap {}", String::from_utf8_lossy(&bitmap.name))));
        }
        let mut filled =
            Bits { editor: self, table: vec![0; entries as usize], bytes: vec![0; cluster as usize], index: 0 };
        let counts = &mut state.counts;
        from.runs(index, &mut |start, end| {
            filled.set(counts, start.unbounded_shr(shift), end.div_ceil(1u64.unbounded_shl(shift)))
        })?;
        filled.put(counts)?;
        let bytes: Vec<u8> = filled.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let offset = counts.allocate((bytes.len() as u64).div_ceil(cluster))? << self.header.cluster_bits;
        self.machine.submit(&[Step::Write { device: self.device, offset, data: &bytes }])?;
        Ok((offset, entries))
    }

    /// The directory as it is.
    fn directory_bytes(&self) -> Result<Vec<u8>> {
        let Some(directory) = self.directory else { return Ok(Vec::new()) };
        // Bounded by `bitmaps::read`, which has read all of it.
        let mut bytes = vec![0; directory.size as usize];
        self.machine.read(self.device, directory.offset, &mut bytes)?;
        Ok(bytes)
    }
}
