//! One bitmap's table and bits on their way into the file. Bits that change get a new place, so that what the file's own
//! table refers to stays as it was; what they had before is given up later.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::{Error, FileOffset, Result, Step};

use super::Qcow2Editor;
use crate::bitmaps::{ALL_ONES, AT_ONCE, cluster, fill};
use crate::cluster::ClusterNumber;
use crate::refcount::counts::Counts;

/// See the module.
#[derive(Default)]
pub struct Bits {
    /// The file's table; what is the same in `table` is not this run's to overwrite.
    stored: Vec<u64>,
    table: Vec<u64>,
    /// The cluster of bits that is being changed, its number, and whether there is one.
    bytes: Vec<u8>,
    index: usize,
    open: bool,
    /// Clusters of bits that have a place, one behind the other from there on, and are not written yet.
    behind: Vec<u8>,
    behind_at: FileOffset,
}

impl Bits {
    /// Those of a bitmap whose table is in the file: where it is, and its entries.
    pub fn load(editor: &Qcow2Editor<'_>, (offset, entries): (FileOffset, u64)) -> Result<Self> {
        // `bitmaps::load` has bounded it.
        let mut bytes = vec![0; entries.saturating_mul(8) as usize];
        editor.machine.read(editor.device, offset, &mut bytes)?;
        let stored: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_be_bytes(*b)).collect();
        Ok(Self { table: stored.clone(), stored, ..Self::default() })
    }

    /// Those of a new one, none of which is set.
    pub fn none(entries: u64) -> Self {
        let table = vec![0; entries as usize];
        Self { stored: table.clone(), table, ..Self::default() }
    }

    fn place(&self, editor: &Qcow2Editor<'_>, index: usize) -> Result<FileOffset> {
        cluster(self.table.get(index).copied().unwrap_or(0), editor.header.cluster_size())
            .ok_or_else(|| Error::malformed("a bitmap's table is not valid"))
    }

    /// Clears all.
    pub fn clear(&mut self, editor: &Qcow2Editor<'_>, counts: &mut Counts<'_>) -> Result<()> {
        self.open = false;
        // Their places may be another's next.
        self.behind.clear();
        for index in 0..self.table.len() {
            let place = self.place(editor, index)?;
            if place != FileOffset::ZERO {
                counts.release(ClusterNumber::of(place, editor.header.cluster_bits), 1);
            }
            self.put_entry(index, 0);
        }
        Ok(())
    }

    fn put_entry(&mut self, index: usize, entry: u64) {
        if let Some(place) = self.table.get_mut(index) {
            *place = entry;
        }
    }

    /// Sets bits; whoever sets them in rising order has each cluster read and written once.
    pub fn set(&mut self, editor: &Qcow2Editor<'_>, counts: &mut Counts<'_>, bits: Range<u64>) -> Result<()> {
        let each = editor.header.cluster_size() * 8;
        let mut at = bits.start;
        while at < bits.end {
            let index = usize::try_from(at / each).unwrap_or(usize::MAX);
            let Some(entry) = self.table.get(index).copied() else { break };
            let stop = (at / each + 1).saturating_mul(each).min(bits.end);
            if !self.open || index != self.index {
                self.put(editor, counts)?;
                if entry != ALL_ONES {
                    self.take(editor, index)?;
                }
            }
            if self.open {
                fill(&mut self.bytes, at % each..at % each + (stop - at), true);
            }
            at = stop;
        }
        Ok(())
    }

    /// Begins to change a cluster of bits.
    fn take(&mut self, editor: &Qcow2Editor<'_>, index: usize) -> Result<()> {
        self.bytes.resize(editor.header.cluster_size() as usize, 0);
        match self.place(editor, index)? {
            FileOffset::ZERO => self.bytes.fill(0),
            place => {
                if (self.behind_at..self.behind_at + self.behind.len() as u64).contains(&place) {
                    self.write(editor)?;
                }
                editor.machine.read(editor.device, place, &mut self.bytes)?;
            }
        }
        (self.index, self.open) = (index, true);
        Ok(())
    }

    /// Gives the cluster that was changed its place, if it needs one.
    fn put(&mut self, editor: &Qcow2Editor<'_>, counts: &mut Counts<'_>) -> Result<()> {
        if !core::mem::replace(&mut self.open, false) {
            return Ok(());
        }
        let (index, bits) = (self.index, editor.header.cluster_bits);
        let old = self.place(editor, index)?;
        let stored = self.stored.get(index).copied().unwrap_or(0);
        let same = [(0, 0), (0xff, ALL_ONES)].into_iter().find(|(byte, _)| self.bytes.iter().all(|b| b == byte));
        let own = old != FileOffset::ZERO && old.get() != stored;
        if old != FileOffset::ZERO && (same.is_some() || !own) {
            counts.release(ClusterNumber::of(old, bits), 1);
        }
        if let Some((_, entry)) = same {
            self.put_entry(index, entry);
            return Ok(());
        }
        let place = if own { old } else { counts.allocate(1)?.offset(bits) };
        let len = self.behind.len() as u64;
        if self.behind_at + len != place || len + self.bytes.len() as u64 > AT_ONCE {
            self.write(editor)?;
            self.behind_at = place;
        }
        self.behind.extend_from_slice(&self.bytes);
        self.put_entry(index, place.get());
        Ok(())
    }

    /// Writes the clusters that have their place.
    fn write(&mut self, editor: &Qcow2Editor<'_>) -> Result<()> {
        if !self.behind.is_empty() {
            let (device, offset) = (editor.device, self.behind_at);
            editor.machine.submit(&[Step::Write { device, offset, data: &self.behind }])?;
            self.behind.clear();
        }
        Ok(())
    }

    /// Writes the table to a new place; returns where it is, and its entries.
    pub fn store(mut self, editor: &Qcow2Editor<'_>, counts: &mut Counts<'_>) -> Result<(FileOffset, u64)> {
        self.put(editor, counts)?;
        self.write(editor)?;
        let bytes: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let clusters = (bytes.len() as u64).div_ceil(editor.header.cluster_size());
        let offset = counts.allocate(clusters)?.offset(editor.header.cluster_bits);
        editor.machine.submit(&[Step::Write { device: editor.device, offset, data: &bytes }])?;
        Ok((offset, self.table.len() as u64))
    }
}
