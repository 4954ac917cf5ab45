//! `check`: whether each cluster lies in the file, once, and nothing lies behind the last.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::{CheckContext, CheckReport, DeviceId, Error, FileOffset, Findings, Machine, Result, Source};

use crate::header::Header;
use crate::layout::SECTOR;
use crate::repair::Mender;

/// Says what is wrong, and whether that was put right.
fn wrong(findings: &mut dyn Findings, report: &mut CheckReport, mended: bool, text: &str) -> Result<()> {
    let (what, count) =
        if mended { ("Repairing", &mut report.corruptions_fixed) } else { ("ERROR", &mut report.corruptions) };
    *count += 1;
    findings.line(&format!("{what} {text}"))
}

/// Most clusters of a file that is checked: a bit for each has to fit into the guest's memory (instar).
pub const CHECKED_MAX: u64 = 1 << 28;
/// Most clusters behind the end of the file that are compared with each other (instar).
const FAR_MAX: usize = 1 << 18;

/// An image that is being checked.
struct Check<'c> {
    header: &'c Header,
    source: &'c dyn Source,
    device: DeviceId,
    /// End of the file, in whole sectors.
    file_end: FileOffset,
}

impl Check<'_> {
    /// Calls `each` for all map entries: their number, and where the cluster is (0: none).
    fn each(&self, mut each: impl FnMut(u64, FileOffset) -> Result<()>) -> Result<()> {
        let header = self.header;
        header.blocks(self.device).each(self.source, |index, entry| each(index, header.place(entry)))
    }

    /// First sector of the clusters, and whether that is what the header says.
    fn data_start(&self) -> (u64, bool) {
        let header = self.header;
        let map_end = header.map_end().get().div_ceil(SECTOR);
        let in_clusters = header.entry_unit == header.cluster;
        let least = if in_clusters { map_end.next_multiple_of(header.cluster / SECTOR) } else { map_end };
        match u64::from(header.data) {
            0 if !in_clusters => (least, true),
            said if said >= least && said <= self.file_end / SECTOR => (said, true),
            _ => (least, false),
        }
    }

    /// Says which clusters are not in the file, and returns the place behind the last one that is; where there is none,
    /// behind all that the map and `data`, where the clusters begin, tell of.
    fn outside(
        &self,
        data: FileOffset,
        mut mender: Option<&mut Mender<'_>>,
        findings: &mut dyn Findings,
        report: &mut CheckReport,
    ) -> Result<FileOffset> {
        let (mut high, mut end) = (FileOffset::ZERO, data);
        self.each(|index, offset| {
            let mut mended = false;
            if offset.saturating_add(self.header.cluster) > self.file_end {
                mended = mender.as_mut().map_or(Ok(false), |mender| mender.forget(index))?;
                wrong(findings, report, mended, &format!("cluster {index} is outside image"))?;
            } else {
                high = high.max(offset);
            }
            if !mended {
                end = end.max(offset.saturating_add(self.header.cluster));
            }
            Ok(())
        })?;
        if let Some(mender) = mender {
            mender.settle()?;
        }
        Ok(if high == FileOffset::ZERO { end } else { high.saturating_add(self.header.cluster) })
    }

    /// Says which clusters are used twice, of those from `data` to `end`.
    fn duplicates(
        &self,
        (data, end): (FileOffset, FileOffset),
        mut mender: Option<&mut Mender<'_>>,
        findings: &mut dyn Findings,
        report: &mut CheckReport,
    ) -> Result<()> {
        let cluster = self.header.cluster;
        // Entries may claim any place: a bit for each cluster of the file, and a list of those far outside.
        let count = end.min(self.file_end).saturating_since(data).div_ceil(cluster);
        if count > CHECKED_MAX {
            return Err(Error::limit("Cannot allocate memory"));
        }
        let mut used: Vec<u64> = vec![0; count.div_ceil(64) as usize];
        let mut far = BTreeSet::new();
        let mut last = false;
        self.each(|index, offset| {
            if offset == FileOffset::ZERO {
                return Ok(());
            }
            last = false;
            let number = offset.saturating_since(data) / cluster;
            let twice = match used.get_mut((number / 64) as usize) {
                Some(word) => {
                    let before = *word;
                    *word |= 1 << (number % 64);
                    before == *word
                }
                None if offset >= end => false,
                None if far.len() >= FAR_MAX => return Err(Error::limit("Cannot allocate memory")),
                None => !far.insert(number),
            };
            if twice {
                let mended = mender.as_mut().map_or(Ok(false), |mender| mender.copy(index, offset, data))?;
                wrong(findings, report, mended, &format!("duplicate offset in BAT entry {index}"))?;
                last = !mended;
            }
            Ok(())
        })?;
        if last && self.source.is_stock() {
            // Where the last one of all is a duplicate, the stock tool takes that for its own failure.
            return Err(Error::corrupt("Device or resource busy"));
        }
        Ok(())
    }
}

/// The first sector of the clusters, where the header does not have it right.
pub fn right_data_start(header: &Header, device: DeviceId, machine: &dyn Machine) -> Result<Option<u64>> {
    let file_end = machine.stat(device)?.end().next_multiple_of(SECTOR);
    let (sector, right) = Check { header, source: machine.source(), device, file_end }.data_start();
    Ok((!right).then_some(sector))
}

/// Checks the image.
pub fn run(header: &Header, device: DeviceId, cx: CheckContext<'_>) -> Result<CheckReport> {
    run_with(header, device, None, cx)
}

/// The same; with a mender, what can be put right is. The header stays as it is.
pub fn run_with(
    header: &Header,
    device: DeviceId,
    mut mender: Option<&mut Mender<'_>>,
    cx: CheckContext<'_>,
) -> Result<CheckReport> {
    let all = mender.as_ref().is_some_and(|mender| mender.mends_all());
    let CheckContext { machine, findings } = cx;
    let mut report = CheckReport { total_clusters: header.map.count, ..CheckReport::default() };
    let file_end = machine.stat(device)?.end().next_multiple_of(SECTOR);
    let mut check = Check { header, source: machine.source(), device, file_end };
    if header.in_use {
        wrong(findings, &mut report, all, "image was not closed correctly")?;
    }
    let (sector, right) = check.data_start();
    let data = FileOffset::new(sector * SECTOR);
    if !right {
        wrong(findings, &mut report, all, "data_off field has incorrect value")?;
    }
    let end = check.outside(data, mender.as_deref_mut(), findings, &mut report)?;
    report.image_end_offset = Some(end.get());
    if file_end > end {
        let mended = mender.as_ref().map_or(Ok(false), |mender| mender.cut(end))?;
        let (what, count) = if mended { ("Repairing", &mut report.leaks_fixed) } else { ("ERROR", &mut report.leaks) };
        *count += (file_end - end).div_ceil(header.cluster);
        findings.line(&format!("{what} space leaked at the end of the image {}", file_end - end))?;
        check.file_end = if mended { end } else { file_end };
    }
    check.duplicates((data, end), mender, findings, &mut report)?;
    let mut last = FileOffset::ZERO;
    check.each(|_, offset| {
        if offset.saturating_add(header.cluster) > end {
            last = FileOffset::ZERO;
            return Ok(());
        }
        report.allocated_clusters += u64::from(offset != FileOffset::ZERO);
        if offset != FileOffset::ZERO && last != FileOffset::ZERO && last.saturating_add(header.cluster) != offset {
            report.fragmented_clusters += 1;
        }
        last = offset;
        Ok(())
    })?;
    Ok(report)
}
