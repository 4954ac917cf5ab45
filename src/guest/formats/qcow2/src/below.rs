//! The L2 tables below an L1 table, one after the other, with all workers.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use instar_image::table::Span;
use instar_image::{DeviceId, FileOffset, Machine, Read, Result, Step};
use spin::Mutex;

use crate::layout::table_of;
use crate::window::numbers;

/// Bytes of L2 tables that a worker reads at once.
const PIECE: usize = 512 << 10;

/// Looks at a table, and may change it: its number, where it is and its bytes. Which of the bytes it has changed.
pub type Look<'l> = &'l (dyn Fn(u64, FileOffset, &mut [u8]) -> Result<Range<usize>> + Sync);

/// What lies below one L1 table.
pub struct Below<'b> {
    /// The world.
    pub machine: &'b dyn Machine,
    /// The image's device.
    pub device: DeviceId,
    /// Log2 of a table's bytes.
    pub cluster_bits: u32,
    /// The L1 table.
    pub l1: Span,
}

impl Below<'_> {
    /// Looks at every table whose number is `wanted`, and writes what changed.
    pub fn each(&self, wanted: &dyn Fn(u64) -> bool, look: Look<'_>) -> Result<()> {
        let at_once = (PIECE >> self.cluster_bits).max(1);
        numbers(self.machine.source(), self.device, self.l1.offset, self.l1.count, &mut |first, entries| {
            let tables: Vec<(u64, FileOffset)> = (first..)
                .zip(entries)
                .map(|(number, entry)| (number, table_of(*entry)))
                .filter(|(number, offset)| *offset != FileOffset::ZERO && wanted(*number))
                .collect();
            let jobs: Vec<&[(u64, FileOffset)]> = tables.chunks(at_once).collect();
            let (next, failed) = (AtomicUsize::new(0), Mutex::new(Ok(())));
            let work = |_| {
                let mut bytes = vec![0; at_once.min(tables.len()) << self.cluster_bits];
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = self.some(job, &mut bytes, look) {
                        *failed.lock() = Err(error);
                        break;
                    }
                }
            };
            match jobs.len() {
                0 => {}
                1 => work(0),
                _ => self.machine.broadcast(&work),
            }
            failed.into_inner()
        })
    }

    fn some(&self, tables: &[(u64, FileOffset)], bytes: &mut [u8], look: Look<'_>) -> Result<()> {
        let (device, size) = (self.device, 1usize << self.cluster_bits);
        let mut reads: Vec<Read<'_>> = bytes
            .chunks_exact_mut(size)
            .zip(tables)
            .map(|(buf, (_, offset))| Read { device, offset: *offset, buf })
            .collect();
        self.machine.read_many(&mut reads)?;
        let mut steps = Vec::new();
        for (table, (number, offset)) in bytes.chunks_exact_mut(size).zip(tables) {
            let changed = look(*number, *offset, table)?;
            let data = table.get(changed.clone()).unwrap_or_default();
            if !data.is_empty() {
                steps.push(Step::Write { device, offset: offset.saturating_add(changed.start as u64), data });
            }
        }
        if steps.is_empty() { Ok(()) } else { self.machine.submit(&steps) }
    }
}
