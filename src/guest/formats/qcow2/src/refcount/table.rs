//! The refcount table: where the blocks are.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::{DeviceId, FileOffset, Machine, Result, Step};

use super::Geometry;
use crate::header::Header;
use crate::layout::{FILE_OFFSET_MAX, block_of, field};

/// Bytes of an entry.
pub const ENTRY: u64 = 8;

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// There is none: all counts are zero.
    Absent,
    /// There.
    At(FileOffset),
    /// Where no block can be.
    Unaligned(FileOffset),
    /// Where nothing can be read.
    Unreadable,
}

/// The table of an existing image.
#[derive(Clone)]
pub struct Table {
    /// What the blocks count.
    pub geometry: Geometry,
    /// Where it is in the file, and its length in bytes.
    pub place: (FileOffset, u64),
    /// Its entries: byte offsets of blocks, with their reserved bits.
    pub entries: Vec<u64>,
}

impl Table {
    /// Reads it. The header's check has bounded it.
    pub fn read(machine: &dyn Machine, device: DeviceId, header: &Header) -> Result<Self> {
        let (offset, clusters) = header.refcount_table;
        let len = u64::from(clusters) << header.cluster_bits;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        machine.read(device, offset, &mut bytes)?;
        let entries = bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e)).collect();
        let geometry = Geometry { cluster_bits: header.cluster_bits, order: header.refcount_order };
        Ok(Self { geometry, place: (offset, len), entries })
    }

    /// Where the block with that number is, as its entry has it; 0: there is none.
    pub fn offset(&self, number: u64) -> FileOffset {
        let entry = usize::try_from(number).ok().and_then(|i| self.entries.get(i)).copied().unwrap_or(0);
        block_of(entry)
    }

    /// Where that block is, if it can be.
    pub fn block(&self, number: u64) -> Block {
        let cluster = 1 << self.geometry.cluster_bits;
        match self.offset(number) {
            FileOffset::ZERO => Block::Absent,
            offset if !offset.is_multiple_of(cluster) => Block::Unaligned(offset),
            offset if offset > FILE_OFFSET_MAX.saturating_sub(cluster) => Block::Unreadable,
            offset => Block::At(offset),
        }
    }

    /// Sets the entry of a block, if the table reaches so far.
    pub fn set(&mut self, number: u64, offset: FileOffset) -> bool {
        let entry = usize::try_from(number).ok().and_then(|i| self.entries.get_mut(i));
        entry.map(|entry| *entry = offset.get()).is_some()
    }

    /// Clusters of a table of so many entries.
    pub const fn clusters(&self, entries: usize) -> u64 {
        (entries as u64 * ENTRY).div_ceil(1 << self.geometry.cluster_bits)
    }

    /// Entries as they are stored.
    pub fn encoded(&self, range: Range<usize>) -> Vec<u8> {
        self.entries.get(range).unwrap_or_default().iter().flat_map(|offset| offset.to_be_bytes()).collect()
    }

    /// Writes entries in their place, and then they are stable.
    pub fn write(&self, machine: &dyn Machine, device: DeviceId, range: Range<usize>) -> Result<()> {
        let offset = self.place.0.saturating_add(range.start as u64 * ENTRY);
        let write = Step::Write { device, offset, data: &self.encoded(range) };
        machine.submit(&[write, Step::Barrier { device }])
    }

    /// Has the header tell where the table is, and then that is stable.
    pub fn publish(&self, machine: &dyn Machine, device: DeviceId) -> Result<()> {
        let clusters = u32::try_from(self.place.1 >> self.geometry.cluster_bits).unwrap_or(u32::MAX);
        let mut fields = self.place.0.get().to_be_bytes().to_vec();
        fields.extend_from_slice(&clusters.to_be_bytes());
        let write = Step::Write { device, offset: FileOffset::new(field::REFCOUNT_OFFSET as u64), data: &fields };
        machine.submit(&[write, Step::Barrier { device }])
    }
}
