//! Entries of L1 and L2 tables put right in their place; none where other metadata lie, too.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::{DeviceId, FileOffset, Findings, Machine, Result, Step};

use crate::Qcow2Image;
use crate::layout::L1_ENTRY;
use crate::refcount::stored::Stored;
use crate::snapshots::Walk;
use crate::window::Window;

/// What is put right, and where it must not be.
pub struct Mend<'m> {
    machine: &'m dyn Machine,
    device: DeviceId,
    cluster: u64,
    /// Metadata: where they are in the file, and what they are.
    taken: Vec<(Range<FileOffset>, &'static str)>,
    /// Places of refcount blocks, in order.
    blocks: Vec<FileOffset>,
}

impl<'m> Mend<'m> {
    /// Looks where the metadata lie.
    pub fn new(image: &Qcow2Image<'_>, machine: &'m dyn Machine, stored: &Stored<'_>) -> Result<Self> {
        let (header, table) = (&image.header, &stored.table);
        let run = |offset: FileOffset, len: u64| offset..offset.saturating_add(len);
        let mut taken = vec![
            (run(FileOffset::ZERO, header.cluster_size()), "qcow2_header"),
            (run(header.l1_offset, u64::from(header.l1_size).saturating_mul(L1_ENTRY)), "active L1 table"),
            (run(table.place.0, table.place.1), "refcount table"),
        ];
        let mut window = Window::new(machine.source(), image.device);
        let mut walk = Walk::lenient(header);
        while let Some(entry) = walk.next(&mut window)? {
            let len = u64::from(entry.l1_size).saturating_mul(L1_ENTRY);
            taken.push((run(entry.l1_offset, len), "inactive L1 table"));
        }
        taken.push((run(header.snapshot_offset, walk.len()), "snapshot table"));
        if let Some(directory) = image.extensions.bitmaps {
            taken.push((run(directory.offset, directory.size), "bitmap directory"));
        }
        let mut blocks: Vec<FileOffset> =
            (0..table.entries.len() as u64).map(|n| table.offset(n)).filter(|o| *o != FileOffset::ZERO).collect();
        blocks.sort_unstable();
        Ok(Self { machine, device: image.device, cluster: header.cluster_size(), taken, blocks })
    }

    /// What lies in these bytes besides a table of entries.
    fn other(&self, at: FileOffset, len: u64) -> Option<&'static str> {
        let end = at.saturating_add(len);
        let first = self.blocks.partition_point(|block| block.saturating_add(self.cluster) <= at);
        if self.blocks.get(first).is_some_and(|block| *block < end) {
            return Some("refcount block");
        }
        self.taken.iter().find(|(run, _)| run.start < end && at < run.end).map(|(_, what)| *what)
    }

    /// Writes; false: something else lies there.
    fn write(&self, offset: FileOffset, data: &[u8], findings: &mut dyn Findings) -> Result<bool> {
        if let Some(what) = self.other(offset, data.len() as u64) {
            findings.line(&format!("ERROR: an L2 table at {offset:#x} overlaps with the {what}: it is not written"))?;
            return Ok(false);
        }
        self.machine.submit(&[Step::Write { device: self.device, offset, data }])?;
        Ok(true)
    }

    /// Has an entry of an L2 table say something else; false: it cannot be.
    pub fn entry(&self, at: FileOffset, right: u64, findings: &mut dyn Findings) -> Result<bool> {
        self.write(at, &right.to_be_bytes(), findings)
    }

    /// The same with the entries of the L2 table at `at` whose bytes have `changed`.
    pub fn table(
        &self,
        at: FileOffset,
        bytes: &[u8],
        changed: Range<usize>,
        findings: &mut dyn Findings,
    ) -> Result<bool> {
        let data = bytes.get(changed.clone()).unwrap_or_default();
        self.write(at.saturating_add(changed.start as u64), data, findings)
    }

    /// The same with an entry of the L1 table.
    pub fn l1_entry(&self, at: FileOffset, right: u64) -> Result<bool> {
        let write = Step::Write { device: self.device, offset: at, data: &right.to_be_bytes() };
        self.machine.submit(&[write]).map(|()| true)
    }
}
