//! Where the refcounts and the references differ, and which copied flags are wrong.

use alloc::format;
use alloc::vec;
use core::ops::Range;

use instar_image::reader::Reader;
use instar_image::{CheckContext, CheckReport, FileOffset, Result};

use super::tables::is_plain;
use crate::Qcow2Image;
use crate::cluster::{self, ClusterNumber};
use crate::layout::{L1_ENTRY, OFLAG_COMPRESSED, OFLAG_COPIED, host_of, table_of};
use crate::map::Hex;
use crate::refcount::counts::widen;
use crate::refcount::sheet::{MANY, Sheet};
use crate::refcount::stored::Stored;
use crate::refcount::table::Block;
use crate::repair::counts::Changes;
use crate::repair::mend::Mend;
use crate::window::numbers;

/// Counts errors, repaired or not.
const fn tell(report: &mut CheckReport, count: u64, fixed: bool) {
    let counted = if fixed { &mut report.corruptions_fixed } else { &mut report.corruptions };
    *counted = counted.saturating_add(count);
}

/// What comparing has come to.
#[derive(Default)]
pub struct Compare {
    /// The last cluster that is counted or referred to.
    pub highest: ClusterNumber,
    /// There are clusters in use that nothing counts.
    pub uncounted: bool,
    /// There were blocks of refcounts that cannot be read.
    pub has_bad_blocks: bool,
    /// It was said that the image is corrupt: that is said once.
    said: bool,
}

impl Compare {
    /// Says once that a block is where none can be.
    fn bad_block(&mut self, number: u64, block: Block, cx: &mut CheckContext<'_>) -> Result<()> {
        self.has_bad_blocks = true;
        let Block::Unaligned(offset) = block else { return Ok(()) };
        if core::mem::replace(&mut self.said, true) {
            return Ok(());
        }
        let (offset, number) = (Hex(offset.get()), Hex(number));
        cx.findings.line(&format!(
            "qcow2: Image is corrupt: Refblock offset {offset} unaligned (reftable index: {number}); further non-fatal \
             corruption events will be suppressed"
        ))
    }

    /// Compares the window's clusters below `reached`; with `changes`, counts that may be are put right.
    pub fn window(
        &mut self,
        sheet: &Sheet,
        stored: &Stored<'_>,
        reached: ClusterNumber,
        mut changes: Option<&mut Changes<'_>>,
        cx: &mut CheckContext<'_>,
        report: &mut CheckReport,
    ) -> Result<()> {
        let end = sheet.range.end.min(reached);
        let mut first = sheet.range.start;
        while first < end {
            let number = stored.table.geometry.place(first).0;
            let next = stored.table.geometry.first(number + 1).min(end);
            match stored.table.block(number) {
                Block::Absent | Block::At(_) => {
                    for cluster in sheet.noted(first..next) {
                        let changes = changes.as_deref_mut();
                        self.cluster(cluster, sheet, stored, changes, cx, report)?;
                    }
                }
                bad => {
                    self.bad_block(number, bad, cx)?;
                    for cluster in cluster::each(first..next) {
                        cx.findings.line(&format!("Can't get refcount for cluster {cluster}: Input/output error"))?;
                    }
                    report.check_errors = report.check_errors.saturating_add(next.saturating_since(first));
                }
            }
            first = next;
        }
        Ok(())
    }

    fn cluster(
        &mut self,
        cluster: ClusterNumber,
        sheet: &Sheet,
        stored: &Stored<'_>,
        changes: Option<&mut Changes<'_>>,
        cx: &mut CheckContext<'_>,
        report: &mut CheckReport,
    ) -> Result<()> {
        let both = sheet.both(cluster);
        if both == (0, 0) {
            return Ok(());
        }
        self.highest = cluster;
        if both.0 == both.1 && both.0 != MANY {
            return Ok(());
        }
        let count = stored.get(cluster)?.unwrap_or(0);
        let references = sheet.references(cluster).unwrap_or(0);
        if count == references {
            return Ok(());
        }
        self.uncounted |= count == 0;
        let mended = match changes {
            Some(changes) => changes.set(&stored.table, cluster, count, references)?,
            None => false,
        };
        let (what, tally) = match (mended, count < references) {
            (true, true) => ("Repairing", &mut report.corruptions_fixed),
            (true, false) => ("Repairing", &mut report.leaks_fixed),
            (false, true) => ("ERROR", &mut report.corruptions),
            (false, false) => ("Leaked", &mut report.leaks),
        };
        *tally = tally.saturating_add(1);
        cx.findings.line(&format!("{what} cluster {cluster} refcount={count} reference={references}"))
    }

    /// Says which entries have a copied flag that does not go with the refcount; with `mend`, each is put right.
    pub fn copied_flags(
        &mut self,
        image: &Qcow2Image<'_>,
        stored: &Stored<'_>,
        mend: Option<&Mend<'_>>,
        cx: &mut CheckContext<'_>,
        report: &mut CheckReport,
    ) -> Result<()> {
        let header = &image.header;
        let (machine, device) = (cx.machine, image.device);
        let mut bytes = vec![0; 1 << header.cluster_bits];
        numbers(machine.source(), device, header.l1_offset, u64::from(header.l1_size), &mut |first, entries| {
            for (index, entry) in (first..).zip(entries) {
                let table = table_of(*entry);
                if table == FileOffset::ZERO {
                    continue;
                }
                let Some(count) = self.count(ClusterNumber::of(table, header.cluster_bits), stored, cx)? else {
                    continue;
                };
                if (count == 1) != (entry & OFLAG_COPIED != 0) {
                    let what = if mend.is_some() { "Repairing" } else { "ERROR" };
                    cx.findings.line(&format!(
                        "{what} OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}"
                    ))?;
                    let at = header.l1_offset.saturating_add(index * L1_ENTRY);
                    let fixed = match mend {
                        Some(mend) => mend.l1_entry(at, entry ^ OFLAG_COPIED)?,
                        None => false,
                    };
                    tell(report, 1, fixed);
                }
                machine.read(device, table, &mut bytes)?;
                let (wrong, changed) = self.copied_in_table(image, &mut bytes, stored, mend.is_some(), cx)?;
                let fixed = match mend {
                    Some(mend) if wrong > 0 => mend.table(table, &bytes, changed, cx.findings)?,
                    _ => false,
                };
                tell(report, wrong, fixed);
            }
            Ok(())
        })
    }

    /// Says how many flags of a table are wrong, and puts them right in these bytes of it; returns which of them changed.
    fn copied_in_table(
        &mut self,
        image: &Qcow2Image<'_>,
        table: &mut [u8],
        stored: &Stored<'_>,
        mends: bool,
        cx: &mut CheckContext<'_>,
    ) -> Result<(u64, Range<usize>)> {
        let g = &image.geometry;
        let (mut wrong, mut changed) = (0u64, 0..0);
        for at in (0..table.len()).step_by(1 << g.entry_bits) {
            let entry = Reader::new(table).be64(at)?;
            if entry & OFLAG_COMPRESSED != 0 || !is_plain(g, entry) {
                continue;
            }
            let count = if g.external {
                1
            } else {
                let cluster = ClusterNumber::of(host_of(entry), g.cluster_bits);
                let Some(count) = self.count(cluster, stored, cx)? else { continue };
                count
            };
            if (count == 1) != (entry & OFLAG_COPIED != 0) {
                let what = if mends { "Repairing" } else { "ERROR" };
                cx.findings.line(&format!("{what} OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={count}"))?;
                wrong = wrong.saturating_add(1);
                if let Some(place) = table.get_mut(at..at + 8) {
                    place.copy_from_slice(&(entry ^ OFLAG_COPIED).to_be_bytes());
                    widen(&mut changed, at..at + 8);
                }
            }
        }
        Ok((wrong, changed))
    }

    fn count(&mut self, cluster: ClusterNumber, stored: &Stored<'_>, cx: &mut CheckContext<'_>) -> Result<Option<u64>> {
        match stored.get(cluster)? {
            Ok(count) => Ok(Some(count)),
            Err(bad) => {
                self.bad_block(stored.table.geometry.place(cluster).0, bad, cx)?;
                Ok(None)
            }
        }
    }
}
