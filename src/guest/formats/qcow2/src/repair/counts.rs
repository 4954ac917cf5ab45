//! Refcounts put right in the blocks that there are.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::{CheckContext, DeviceId, FileOffset, Machine, Repairs, Result, Step};

use super::WAITING_MAX;
use crate::Qcow2Image;
use crate::check::tables::quiet;
use crate::check::{FileExtent, Pass, Walk};
use crate::cluster::ClusterNumber;
use crate::refcount::sheet::Sheet;
use crate::refcount::stored::Stored;
use crate::refcount::table::{Block, Table};

/// Counts that are about to be written.
pub struct Changes<'m> {
    machine: &'m dyn Machine,
    device: DeviceId,
    what: Repairs,
    /// Number, place and bytes of the block that is being changed.
    current: Option<(u64, FileOffset, Vec<u8>)>,
    /// Blocks that are done.
    waiting: Vec<(FileOffset, Vec<u8>)>,
}

impl<'m> Changes<'m> {
    /// None yet.
    const fn new(machine: &'m dyn Machine, device: DeviceId, what: Repairs) -> Self {
        Self { machine, device, what, current: None, waiting: Vec::new() }
    }

    /// Sets the count of a cluster, if that is to be repaired.
    pub fn set(&mut self, table: &Table, cluster: ClusterNumber, count: u64, references: u64) -> Result<bool> {
        if count < references && self.what == Repairs::Leaks {
            return Ok(false);
        }
        let (number, index) = table.geometry.place(cluster);
        if self.current.as_ref().is_none_or(|(held, ..)| *held != number) {
            let Block::At(offset) = table.block(number) else { return Ok(false) };
            self.put_by()?;
            let mut bytes = vec![0; table.geometry.block_len()];
            self.machine.read(self.device, offset, &mut bytes)?;
            self.current = Some((number, offset, bytes));
        }
        if let Some((_, _, bytes)) = &mut self.current {
            table.geometry.set(bytes, index, references);
        }
        Ok(true)
    }

    fn put_by(&mut self) -> Result<()> {
        let Some((_, offset, bytes)) = self.current.take() else { return Ok(()) };
        let len = bytes.len();
        self.waiting.push((offset, bytes));
        if self.waiting.len().saturating_mul(len) >= WAITING_MAX { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let device = self.device;
        let steps: Vec<Step<'_>> =
            self.waiting.iter().map(|(offset, data)| Step::Write { device, offset: *offset, data }).collect();
        self.machine.submit(&steps)?;
        self.waiting.clear();
        Ok(())
    }

    /// Writes the rest, and then it is stable.
    fn finish(mut self) -> Result<()> {
        self.put_by()?;
        self.write()?;
        self.machine.submit(&[Step::Barrier { device: self.device }])
    }
}

/// Compares again what a first pass has counted, and puts right what may be.
pub fn mend(
    image: &Qcow2Image<'_>,
    what: Repairs,
    stored: &Stored<'_>,
    extent: &FileExtent,
    pass: &mut Pass,
    cx: &mut CheckContext<'_>,
) -> Result<()> {
    let machine = cx.machine;
    let report = &mut pass.report;
    (report.corruptions, report.leaks, report.check_errors) = (pass.of_tables, 0, 0);
    let mut changes = Changes::new(machine, image.device, what);
    if let Some((sheet, reached)) = pass.counted.take() {
        pass.compare.window(&sheet, stored, reached, Some(&mut changes), cx, report)?;
    } else {
        for window in extent.windows() {
            let later = window.start > ClusterNumber::FIRST;
            let sheet = Sheet::new(window, stored.table.geometry.max());
            stored.load(&sheet)?;
            let walk = Walk { image, device: image.device, stored, file_end: extent.end, behind: extent.behind };
            let (_, reached) = walk.count_with(&sheet, machine, quiet(later))?;
            pass.compare.window(&sheet, stored, reached, Some(&mut changes), cx, report)?;
        }
    }
    changes.finish()?;
    stored.forget();
    Ok(())
}
