//! `check`: whether each cluster of the file is used once.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::table::TableCache;
use instar_image::{CheckContext, CheckReport, DeviceId, Error, FileOffset, Result};

use crate::header::Header;
use crate::layout::{ENTRY, UNALLOCATED, ZERO};

/// Most clusters of a file that is checked: a bit for each has to fit into the guest's memory (instar).
const CLUSTERS_MAX: u64 = 1 << 28;

/// Which clusters of the file are in use.
struct Used {
    bits: Vec<u64>,
    cluster: u64,
}

impl Used {
    /// Takes `count` clusters from `offset` on; how many were taken before or do not exist.
    fn take(&mut self, offset: FileOffset, count: u64) -> u64 {
        let first = offset / self.cluster;
        let mut bad = 0;
        for number in first..first.saturating_add(count) {
            match self.bits.get_mut((number / 64) as usize) {
                Some(word) if *word & (1 << (number % 64)) == 0 => *word |= 1 << (number % 64),
                _ => bad += 1,
            }
        }
        bad
    }
}

/// Checks the image.
pub fn run(header: &Header, device: DeviceId, cx: &CheckContext<'_>) -> Result<CheckReport> {
    run_with(header, device, cx, &mut |_| Ok(false))
}

/// The same; `forget` is told of each entry that leads to where no table or cluster can be, by where it is, and says whether
/// it is going to be that of none. Of a table whose clusters are something else's, too, nothing is believed.
pub fn run_with(
    header: &Header,
    device: DeviceId,
    cx: &CheckContext<'_>,
    forget: &mut dyn FnMut(FileOffset) -> Result<bool>,
) -> Result<CheckReport> {
    let clusters = header.file_end / header.cluster;
    if clusters > CLUSTERS_MAX {
        return Err(Error::limit("Cannot allocate memory"));
    }
    let mut used = Used { bits: vec![0; clusters.div_ceil(64) as usize], cluster: header.cluster };
    let mut report = CheckReport { total_clusters: header.size.div_ceil(header.cluster), ..CheckReport::default() };
    used.take(FileOffset::ZERO, header.header.min(clusters));
    report.corruptions += used.take(header.l1, header.table);
    let mut l1 = TableCache::<8>::new(cx.machine.source(), device);
    let mut l2 = TableCache::<8>::new(cx.machine.source(), device);
    let mut index = 0;
    loop {
        let tables = l1.from(header.table_at(header.l1), index)?;
        if tables.is_empty() {
            break;
        }
        let numbered = tables.iter().zip(index..).map(|(table, number)| (u64::from_le_bytes(*table), number));
        index += tables.len() as u64;
        for (table, number) in numbered.filter(|(table, _)| *table != UNALLOCATED) {
            let table = FileOffset::new(table);
            if !header.is_table(table, header.file_end) {
                wrong(&mut report, forget(header.l1.saturating_add(number * ENTRY))?);
                continue;
            }
            let bad = used.take(table, header.table);
            report.corruptions += bad;
            if bad == 0 {
                check_table(header, &mut l2, table, &mut used, (&mut report, &mut *forget))?;
            }
        }
    }
    let free = clusters.saturating_sub(used.bits.iter().map(|w| u64::from(w.count_ones())).sum());
    report.leaks = free;
    Ok(report)
}

/// One L2 table.
fn check_table(
    header: &Header,
    pieces: &mut TableCache<'_, 8>,
    table: FileOffset,
    used: &mut Used,
    (report, forget): (&mut CheckReport, &mut dyn FnMut(FileOffset) -> Result<bool>),
) -> Result<()> {
    let (mut index, mut last) = (0, FileOffset::ZERO);
    loop {
        let entries = pieces.from(header.table_at(table), index)?;
        if entries.is_empty() {
            return Ok(());
        }
        let numbered = entries.iter().zip(index..).map(|(entry, number)| (u64::from_le_bytes(*entry), number));
        index += entries.len() as u64;
        for (entry, number) in numbered {
            if entry == UNALLOCATED || entry == ZERO {
                continue;
            }
            let offset = FileOffset::new(entry);
            report.allocated_clusters += 1;
            if last != FileOffset::ZERO && last.saturating_add(header.cluster) != offset {
                report.fragmented_clusters += 1;
            }
            last = offset;
            if header.is_cluster(offset, header.file_end) {
                report.corruptions += used.take(offset, 1);
            } else {
                wrong(report, forget(table.saturating_add(number * ENTRY))?);
            }
        }
    }
}

/// Counts an entry that leads nowhere.
const fn wrong(report: &mut CheckReport, forgotten: bool) {
    let count = if forgotten { &mut report.corruptions_fixed } else { &mut report.corruptions };
    *count = count.saturating_add(1);
}
