//! The refcounts as they are stored.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use instar_image::{DeviceId, Machine, Read, Result};
use spin::Mutex;

use super::sheet::Sheet;
use crate::header::Header;
use crate::layout::{FILE_OFFSET_MAX, REFCOUNT_BLOCK_MASK};
use crate::refblock;

/// Bytes of blocks that a worker reads at once.
const PIECE: u64 = 512 << 10;

/// Where a refcount block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// There is none: all counts are zero.
    Absent,
    /// At that byte offset.
    At(u64),
    /// Where no block can be: that byte offset.
    Unaligned(u64),
    /// Where nothing can be read.
    Unreadable,
}

/// The refcount table, and a block of it.
pub struct Stored<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    cluster_bits: u32,
    order: u32,
    /// Where the table is, and its length, in bytes.
    pub place: (u64, u64),
    /// Its entries.
    pub table: Vec<u64>,
    /// Number and bytes of the block that was looked at last.
    latest: Mutex<(u64, Vec<u8>)>,
}

impl<'a> Stored<'a> {
    /// Reads the table.
    pub fn open(machine: &'a dyn Machine, device: DeviceId, header: &Header) -> Result<Self> {
        let (offset, clusters) = header.refcount_table;
        let len = u64::from(clusters) << header.cluster_bits;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        machine.read(device, offset, &mut bytes)?;
        let table = bytes.as_chunks::<8>().0.iter().map(|e| u64::from_be_bytes(*e)).collect();
        let (cluster_bits, order) = (header.cluster_bits, header.refcount_order);
        let latest = Mutex::new((u64::MAX, Vec::new()));
        Ok(Self { machine, device, cluster_bits, order, place: (offset, len), table, latest })
    }

    /// Log2 of the counts of a block.
    pub const fn block_bits(&self) -> u32 {
        self.cluster_bits.saturating_add(3).saturating_sub(self.order)
    }

    /// Where the block with that number is.
    pub fn block(&self, number: u64) -> Block {
        let entry = usize::try_from(number).ok().and_then(|i| self.table.get(i)).copied().unwrap_or(0);
        match entry & REFCOUNT_BLOCK_MASK {
            0 => Block::Absent,
            offset if !offset.is_multiple_of(1 << self.cluster_bits) => Block::Unaligned(offset),
            offset if offset > FILE_OFFSET_MAX.saturating_sub(1 << self.cluster_bits) => Block::Unreadable,
            offset => Block::At(offset),
        }
    }

    /// The count of one cluster; or where its block cannot be.
    pub fn get(&self, cluster: u64) -> Result<core::result::Result<u64, Block>> {
        let number = cluster >> self.block_bits();
        let offset = match self.block(number) {
            Block::Absent => return Ok(Ok(0)),
            Block::At(offset) => offset,
            bad => return Ok(Err(bad)),
        };
        let mut latest = self.latest.lock();
        let (held, bytes) = &mut *latest;
        if *held != number {
            *held = u64::MAX;
            bytes.resize(1 << self.cluster_bits, 0);
            self.machine.read(self.device, offset, bytes)?;
            *held = number;
        }
        let index = cluster & (1u64 << self.block_bits()).wrapping_sub(1);
        Ok(Ok(refblock::get(bytes, self.order, usize::try_from(index).unwrap_or(usize::MAX))))
    }

    /// Notes the counts of the window's clusters, with all workers.
    pub fn load(&self, sheet: &Sheet) -> Result<()> {
        let blocks = (sheet.range.start >> self.block_bits())..sheet.range.end.div_ceil(1 << self.block_bits());
        let there: Vec<(u64, u64)> = blocks
            .filter_map(|number| match self.block(number) {
                Block::At(offset) => Some((number, offset)),
                _ => None,
            })
            .collect();
        let at_once = usize::try_from(PIECE >> self.cluster_bits).unwrap_or(1).max(1);
        let jobs: Vec<&[(u64, u64)]> = there.chunks(at_once).collect();
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(Ok(()));
        self.machine.broadcast(&|_| {
            let mut bytes = Vec::new();
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.load_some(job, sheet, &mut bytes) {
                    *failed.lock() = Err(error);
                    break;
                }
            }
        });
        failed.into_inner()
    }

    fn load_some(&self, job: &[(u64, u64)], sheet: &Sheet, bytes: &mut Vec<u8>) -> Result<()> {
        let size = 1usize << self.cluster_bits;
        bytes.resize(job.len().saturating_mul(size), 0);
        let pieces = bytes.chunks_exact_mut(size).zip(job);
        let mut reads: Vec<Read<'_>> =
            pieces.map(|(buf, (_, offset))| Read { device: self.device, offset: *offset, buf }).collect();
        self.machine.read_many(&mut reads)?;
        for (block, (number, _)) in bytes.chunks_exact(size).zip(job) {
            let first = number << self.block_bits();
            if self.order == 4 {
                // The usual width.
                for (cluster, count) in (first..).zip(block.as_chunks::<2>().0).filter(|(_, c)| **c != [0, 0]) {
                    sheet.store(cluster, u64::from(u16::from_be_bytes(*count)));
                }
                continue;
            }
            for index in 0..1usize << self.block_bits() {
                let count = refblock::get(block, self.order, index);
                if count != 0 {
                    sheet.store(first.saturating_add(index as u64), count);
                }
            }
        }
        Ok(())
    }
}
