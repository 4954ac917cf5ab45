//! Where the refcounts and the references differ, and which copied flags are wrong.

use alloc::format;
use alloc::vec;

use instar_image::reader::Reader;
use instar_image::{CheckContext, CheckReport, Result};

use super::tables::is_plain;
use crate::Qcow2Image;
use crate::layout::{L1_OFFSET_MASK, L2_OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED};
use crate::map::Hex;
use crate::refcount::sheet::{MANY, Sheet};
use crate::refcount::stored::Stored;
use crate::refcount::table::Block;
use crate::window::numbers;

/// What comparing has come to.
#[derive(Default)]
pub struct Compare {
    /// The last cluster that is counted or referred to.
    pub highest: u64,
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
        let (offset, number) = (Hex(offset), Hex(number));
        cx.findings.line(&format!(
            "qcow2: Image is corrupt: Refblock offset {offset} unaligned (reftable index: {number}); further non-fatal \
             corruption events will be suppressed"
        ))
    }

    /// Compares the window's clusters below `reached`.
    pub fn window(
        &mut self,
        sheet: &Sheet,
        stored: &Stored<'_>,
        reached: u64,
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
                    for cluster in first..next {
                        self.cluster(cluster, sheet, stored, cx, report)?;
                    }
                }
                bad => {
                    self.bad_block(number, bad, cx)?;
                    for cluster in first..next {
                        cx.findings.line(&format!("Can't get refcount for cluster {cluster}: Input/output error"))?;
                    }
                    report.check_errors = report.check_errors.saturating_add(next.saturating_sub(first));
                }
            }
            first = next;
        }
        Ok(())
    }

    fn cluster(
        &mut self,
        cluster: u64,
        sheet: &Sheet,
        stored: &Stored<'_>,
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
        let (what, tally) =
            if count < references { ("ERROR", &mut report.corruptions) } else { ("Leaked", &mut report.leaks) };
        *tally = tally.saturating_add(1);
        cx.findings.line(&format!("{what} cluster {cluster} refcount={count} reference={references}"))
    }

    /// Says which entries have a copied flag that does not go with the refcount.
    pub fn copied_flags(
        &mut self,
        image: &Qcow2Image<'_>,
        stored: &Stored<'_>,
        cx: &mut CheckContext<'_>,
        report: &mut CheckReport,
    ) -> Result<()> {
        let header = &image.header;
        let (machine, device) = (cx.machine, image.device);
        let mut bytes = vec![0; 1 << header.cluster_bits];
        numbers(machine.source(), device, header.l1_offset, u64::from(header.l1_size), &mut |first, entries| {
            for (index, entry) in (first..).zip(entries) {
                let table = entry & L1_OFFSET_MASK;
                if table == 0 {
                    continue;
                }
                let Some(count) = self.count(table >> header.cluster_bits, stored, cx)? else { continue };
                if (count == 1) != (entry & OFLAG_COPIED != 0) {
                    report.corruptions = report.corruptions.saturating_add(1);
                    cx.findings.line(&format!(
                        "ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}"
                    ))?;
                }
                machine.read(device, table, &mut bytes)?;
                self.copied_in_table(image, &bytes, stored, cx, report)?;
            }
            Ok(())
        })
    }

    fn copied_in_table(
        &mut self,
        image: &Qcow2Image<'_>,
        table: &[u8],
        stored: &Stored<'_>,
        cx: &mut CheckContext<'_>,
        report: &mut CheckReport,
    ) -> Result<()> {
        let g = &image.geometry;
        for at in (0..table.len()).step_by(1 << g.entry_bits) {
            let entry = Reader::new(table).be64(at)?;
            if entry & OFLAG_COMPRESSED != 0 || !is_plain(g, entry) {
                continue;
            }
            let count = if g.external {
                1
            } else {
                let cluster = (entry & L2_OFFSET_MASK) >> g.cluster_bits;
                let Some(count) = self.count(cluster, stored, cx)? else { continue };
                count
            };
            if (count == 1) != (entry & OFLAG_COPIED != 0) {
                report.corruptions = report.corruptions.saturating_add(1);
                cx.findings.line(&format!("ERROR OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={count}"))?;
            }
        }
        Ok(())
    }

    fn count(&mut self, cluster: u64, stored: &Stored<'_>, cx: &mut CheckContext<'_>) -> Result<Option<u64>> {
        match stored.get(cluster)? {
            Ok(count) => Ok(Some(count)),
            Err(bad) => {
                self.bad_block(stored.table.geometry.place(cluster).0, bad, cx)?;
                Ok(None)
            }
        }
    }
}
