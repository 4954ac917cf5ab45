//! The refcounts as they are stored.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use instar_image::{DeviceId, FileOffset, Machine, Read, Result};
use spin::Mutex;

use super::sheet::Sheet;
use super::table::{Block, Table};
use crate::cluster::ClusterNumber;
use crate::header::Header;

/// Bytes of blocks that a worker reads at once.
const PIECE: u64 = 512 << 10;

/// The refcount table, and a block of it.
pub struct Stored<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    /// The table.
    pub table: Table,
    /// Number and bytes of the block that was looked at last.
    latest: Mutex<(u64, Vec<u8>)>,
}

impl<'a> Stored<'a> {
    /// Reads the table.
    pub fn open(machine: &'a dyn Machine, device: DeviceId, header: &Header) -> Result<Self> {
        let table = Table::read(machine, device, header)?;
        Ok(Self { machine, device, table, latest: Mutex::new((u64::MAX, Vec::new())) })
    }

    /// The count of one cluster; or where its block cannot be.
    pub fn get(&self, cluster: ClusterNumber) -> Result<core::result::Result<u64, Block>> {
        let geometry = self.table.geometry;
        let (number, index) = geometry.place(cluster);
        let offset = match self.table.block(number) {
            Block::Absent => return Ok(Ok(0)),
            Block::At(offset) => offset,
            bad => return Ok(Err(bad)),
        };
        let mut latest = self.latest.lock();
        let (held, bytes) = &mut *latest;
        if *held != number {
            *held = u64::MAX;
            bytes.resize(geometry.block_len(), 0);
            self.machine.read(self.device, offset, bytes)?;
            *held = number;
        }
        Ok(Ok(geometry.get(bytes, index)))
    }

    /// Counts were changed in the file.
    pub fn forget(&self) {
        self.latest.lock().0 = u64::MAX;
    }

    /// Notes the counts of the window's clusters, with all workers.
    pub fn load(&self, sheet: &Sheet) -> Result<()> {
        let geometry = self.table.geometry;
        let there: Vec<(u64, FileOffset)> = geometry
            .blocks_of(sheet.range.clone())
            .filter_map(|number| match self.table.block(number) {
                Block::At(offset) => Some((number, offset)),
                _ => None,
            })
            .collect();
        let at_once = usize::try_from(PIECE >> geometry.cluster_bits).unwrap_or(1).max(1);
        let jobs: Vec<&[(u64, FileOffset)]> = there.chunks(at_once).collect();
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

    fn load_some(&self, job: &[(u64, FileOffset)], sheet: &Sheet, bytes: &mut Vec<u8>) -> Result<()> {
        let geometry = self.table.geometry;
        let size = geometry.block_len();
        bytes.resize(job.len().saturating_mul(size), 0);
        let pieces = bytes.chunks_exact_mut(size).zip(job);
        let mut reads: Vec<Read<'_>> =
            pieces.map(|(buf, (_, offset))| Read { device: self.device, offset: *offset, buf }).collect();
        self.machine.read_many(&mut reads)?;
        for (block, (number, _)) in bytes.chunks_exact(size).zip(job) {
            let first = geometry.first(*number);
            if geometry.order == 4 {
                // The usual width.
                for (index, count) in (0..).zip(block.as_chunks::<2>().0).filter(|(_, c)| **c != [0, 0]) {
                    sheet.store(first.saturating_add(index), u64::from(u16::from_be_bytes(*count)));
                }
                continue;
            }
            for index in 0..1usize << geometry.block_bits() {
                let count = geometry.get(block, index);
                if count != 0 {
                    sheet.store(first.saturating_add(index as u64), count);
                }
            }
        }
        Ok(())
    }
}
