//! The L1 table and those L2 tables that are being changed.
//!
//! A table that only this disk refers to is changed in its place; another one gets a new place, and the L1 entry
//! follows.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::reader::is_zero;
use instar_image::sealed::Placed;
use instar_image::{DeviceId, Error, FileOffset, Machine, Result};

use crate::cache::{Cached, WriteCache};
use crate::cluster::ClusterNumber;
use crate::header::Header;
use crate::layout::{L1_ENTRY, L1_OFFSET_MASK, OFLAG_COPIED, table_of};
use crate::map::{Hex, corrupt};
use crate::refcount::counts::{Counts, widen};

struct Table {
    bytes: Vec<u8>,
    /// Where it is written: its own place, if it has one.
    place: Option<FileOffset>,
    /// That place is a new one, which the L1 table does not have yet.
    fresh: bool,
    /// Bytes that differ from the file's.
    changed: Range<usize>,
}

impl Cached for Table {
    fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }
}

/// The tables of the disk, as they are going to be.
pub struct Tables<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    cluster_bits: u32,
    l1_offset: FileOffset,
    l1: Vec<u64>,
    /// L1 entries that differ from the file's.
    l1_changed: Range<usize>,
    tables: WriteCache<Table>,
}

impl<'a> Tables<'a> {
    /// Reads the L1 table.
    pub fn open(machine: &'a dyn Machine, device: DeviceId, header: &Header) -> Result<Self> {
        // The header's check has bounded it.
        let mut bytes = vec![0; (u64::from(header.l1_size) * L1_ENTRY) as usize];
        machine.read(device, header.l1_offset, &mut bytes)?;
        let l1 = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_be_bytes(*b)).collect();
        let (cluster_bits, l1_offset) = (header.cluster_bits, header.l1_offset);
        Ok(Self {
            machine,
            device,
            cluster_bits,
            l1_offset,
            l1,
            l1_changed: 0..0,
            tables: WriteCache::new(cluster_bits),
        })
    }

    /// Number of L1 entries.
    pub fn len(&self) -> usize {
        self.l1.len()
    }

    /// Corrects the entries of the L1 table.
    pub fn correct(&mut self, right: impl Fn(u64) -> u64) {
        for (index, entry) in self.l1.iter_mut().enumerate() {
            let corrected = right(*entry);
            if corrected != *entry {
                *entry = corrected;
                widen(&mut self.l1_changed, index..index + 1);
            }
        }
    }

    /// There is no L2 table.
    pub fn is_blank(&self) -> bool {
        self.l1.iter().all(|entry| entry & L1_OFFSET_MASK == 0)
    }

    /// Where L2 table `index` is, 0 if there is none.
    pub fn offset(&self, index: usize) -> Result<FileOffset> {
        let offset = table_of(self.l1.get(index).copied().unwrap_or(0));
        if !offset.is_multiple_of(1 << self.cluster_bits) {
            let index = Hex(index as u64);
            return Err(corrupt(format_args!("L2 table offset {offset:#x} unaligned (L1 index: {index})")));
        }
        Ok(offset)
    }

    /// There is no L2 table `index`, and none waits.
    pub fn is_absent(&self, index: usize) -> bool {
        self.l1.get(index).is_none_or(|entry| entry & L1_OFFSET_MASK == 0) && !self.tables.holds(index as u64)
    }

    /// Bytes that wait in memory.
    pub fn waiting(&self) -> usize {
        self.tables.waiting()
    }

    /// The bytes of L2 table `index`; zeroes where there is none.
    pub fn read(&mut self, index: usize) -> Result<&[u8]> {
        Ok(&self.table(index)?.bytes)
    }

    fn table(&mut self, index: usize) -> Result<&mut Table> {
        if index >= self.l1.len() {
            return Err(Error::corrupt("a cluster beyond the L1 table"));
        }
        let (machine, device, bits, offset) = (self.machine, self.device, self.cluster_bits, self.offset(index)?);
        let own = self.l1.get(index).is_some_and(|entry| entry & OFLAG_COPIED != 0);
        self.tables.get(index as u64, || {
            let mut bytes = vec![0; 1 << bits];
            if offset != FileOffset::ZERO {
                machine.read(device, offset, &mut bytes)?;
            }
            Ok(Table {
                bytes,
                place: (offset != FileOffset::ZERO && own).then_some(offset),
                fresh: false,
                changed: 0..0,
            })
        })
    }

    /// Changes bytes of L2 table `index`, and gives it a place of its own if it has none.
    pub fn change(&mut self, index: usize, at: usize, bytes: &[u8], counts: &mut Counts<'_>) -> Result<()> {
        let (cluster_bits, old) = (self.cluster_bits, self.offset(index)?);
        let whole = 0..1usize << cluster_bits;
        let table = self.table(index)?;
        let Some(place) = table.bytes.get_mut(at..at + bytes.len()) else {
            return Err(Error::corrupt("an entry beyond its table"));
        };
        if place == bytes {
            return Ok(());
        }
        place.copy_from_slice(bytes);
        widen(&mut table.changed, at..at + bytes.len());
        if table.place.is_none() {
            table.place = Some(counts.allocate(1)?.offset(cluster_bits));
            table.fresh = true;
            table.changed = whole;
            if old != FileOffset::ZERO {
                counts.release(ClusterNumber::of(old, cluster_bits), 1);
            }
        }
        Ok(())
    }

    /// Gives up the tables that changes left without anything: none says the same.
    pub fn drop_empty(&mut self, counts: &mut Counts<'_>) -> Result<()> {
        let mut dropped = Vec::new();
        for (index, table) in self.tables.changed().filter(|(_, table)| is_zero(&table.bytes)) {
            match table.place.map(|place| ClusterNumber::of(place, self.cluster_bits)) {
                Some(cluster) if table.fresh => counts.take_back(cluster, 1)?,
                Some(cluster) => counts.release(cluster, 1),
                None => {}
            }
            dropped.push(index as usize);
        }
        dropped.into_iter().for_each(|index| self.remove(index));
        Ok(())
    }

    /// The steps that write tables in new places: nothing refers to them yet.
    pub fn write_fresh(&mut self, steps: &mut Vec<Placed<'_>>) {
        for (index, table) in self.tables.changed().filter(|(_, table)| table.fresh) {
            let index = index as usize;
            let Some(offset) = table.place else { continue };
            steps.push(Placed::Owned { device: self.device, offset, data: table.bytes.clone() });
            if let Some(entry) = self.l1.get_mut(index) {
                *entry = offset.get() | OFLAG_COPIED;
            }
            widen(&mut self.l1_changed, index..index + 1);
            (table.fresh, table.changed) = (false, 0..0);
        }
    }

    /// The steps that make known what was written: entries in tables that have their places, and in the L1 table.
    pub fn write_references(&mut self, steps: &mut Vec<Placed<'_>>) {
        let device = self.device;
        for (_, table) in self.tables.changed() {
            let Some(offset) = table.place else { continue };
            let changed = core::mem::replace(&mut table.changed, 0..0);
            let data = table.bytes.get(changed.clone()).unwrap_or_default().to_vec();
            steps.push(Placed::Owned { device, offset: offset + changed.start as u64, data });
        }
        let range = core::mem::replace(&mut self.l1_changed, 0..0);
        if !range.is_empty() {
            let offset = self.l1_offset + range.start as u64 * L1_ENTRY;
            let entries = self.l1.get(range).unwrap_or_default();
            let data = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            steps.push(Placed::Owned { device, offset, data });
        }
    }

    /// Gives the L1 table room for `entries` in a new place, which nothing refers to yet; returns where that is, and
    /// what the old place was: first cluster, clusters.
    pub fn grow(&mut self, entries: usize, counts: &mut Counts<'_>) -> Result<(FileOffset, (ClusterNumber, u64))> {
        let clusters = |entries: usize| (entries as u64 * L1_ENTRY).div_ceil(1 << self.cluster_bits);
        let old = (ClusterNumber::of(self.l1_offset, self.cluster_bits), clusters(self.l1.len()));
        self.l1_offset = counts.allocate(clusters(entries))?.offset(self.cluster_bits);
        self.l1.resize(entries, 0);
        self.l1_changed = 0..entries;
        Ok((self.l1_offset, old))
    }

    /// Where all L2 tables are; 0 where there is none.
    pub fn places(&self) -> impl Iterator<Item = FileOffset> {
        self.l1.iter().map(|entry| table_of(*entry))
    }

    /// Where the L1 table is: first cluster, clusters.
    pub fn place(&self) -> (ClusterNumber, u64) {
        let clusters = (self.l1.len() as u64 * L1_ENTRY).div_ceil(1 << self.cluster_bits);
        (ClusterNumber::of(self.l1_offset, self.cluster_bits), clusters)
    }

    /// Puts the L1 table to another place, which nothing refers to yet.
    pub fn move_to(&mut self, offset: FileOffset) {
        self.l1_offset = offset;
        self.l1_changed = 0..self.l1.len();
    }

    /// Forgets L2 table `index`, which nothing refers to any more.
    pub fn remove(&mut self, index: usize) {
        self.tables.remove(index as u64);
        if let Some(entry) = self.l1.get_mut(index).filter(|entry| **entry != 0) {
            *entry = 0;
            widen(&mut self.l1_changed, index..index + 1);
        }
    }

    /// Forgets every L2 table: the disk holds nothing any more.
    pub fn clear(&mut self) {
        self.tables.clear();
        let used = |entry: &u64| *entry != 0;
        if let (Some(first), Some(last)) = (self.l1.iter().position(used), self.l1.iter().rposition(used)) {
            widen(&mut self.l1_changed, first..last + 1);
        }
        self.l1.fill(0);
    }
}
