//! `check`: whether each cluster lies in the file, once, and nothing lies behind the last.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::{CheckContext, CheckReport, DeviceId, Error, Findings, Machine, Result, Source};

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
    /// Bytes of the file, in whole sectors.
    len: u64,
}

impl Check<'_> {
    /// Calls `each` for all map entries: their number, and the byte offset of the cluster (0: none).
    fn each(&self, mut each: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let header = self.header;
        header.blocks(self.device).each(self.source, |index, entry| each(index, header.place(entry)))
    }

    /// First sector of the clusters, and whether that is what the header says.
    fn data_start(&self) -> (u64, bool) {
        let header = self.header;
        let map_end = header.map_end().div_ceil(SECTOR);
        let in_clusters = header.entry_unit == header.cluster;
        let least = if in_clusters { map_end.next_multiple_of(header.cluster / SECTOR) } else { map_end };
        match u64::from(header.data) {
            0 if !in_clusters => (least, true),
            said if said >= least && said <= self.len / SECTOR => (said, true),
            _ => (least, false),
        }
    }

    /// Says which clusters are not in the file, and returns the byte behind the last one that is; where there is none,
    /// behind all that the map and `data`, the first byte of the clusters, tell of.
    fn outside(
        &self,
        data: u64,
        mut mender: Option<&mut Mender<'_>>,
        findings: &mut dyn Findings,
        report: &mut CheckReport,
    ) -> Result<u64> {
        let (mut high, mut end) = (0, data);
        self.each(|index, offset| {
            let mut mended = false;
            if offset.saturating_add(self.header.cluster) > self.len {
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
        Ok(if high == 0 { end } else { high.saturating_add(self.header.cluster) })
    }

    /// Says which clusters are used twice, of those from byte `data` to `end`.
    fn duplicates(
        &self,
        (data, end): (u64, u64),
        mut mender: Option<&mut Mender<'_>>,
        findings: &mut dyn Findings,
        report: &mut CheckReport,
    ) -> Result<()> {
        let cluster = self.header.cluster;
        // Entries may claim any place: a bit for each cluster of the file, and a list of those far outside.
        let count = end.min(self.len).saturating_sub(data).div_ceil(cluster);
        if count > CHECKED_MAX {
            return Err(Error::limit("Cannot allocate memory"));
        }
        let mut used: Vec<u64> = vec![0; count.div_ceil(64) as usize];
        let mut far = BTreeSet::new();
        let mut last = false;
        self.each(|index, offset| {
            if offset == 0 {
                return Ok(());
            }
            last = false;
            let number = offset.saturating_sub(data) / cluster;
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
    let len = machine.stat(device)?.len.next_multiple_of(SECTOR);
    let (sector, right) = Check { header, source: machine.source(), device, len }.data_start();
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
    let len = machine.stat(device)?.len.next_multiple_of(SECTOR);
    let mut check = Check { header, source: machine.source(), device, len };
    if header.in_use {
        wrong(findings, &mut report, all, "image was not closed correctly")?;
    }
    let (sector, right) = check.data_start();
    let data = sector * SECTOR;
    if !right {
        wrong(findings, &mut report, all, "data_off field has incorrect value")?;
    }
    let end = check.outside(data, mender.as_deref_mut(), findings, &mut report)?;
    report.image_end_offset = Some(end);
    if len > end {
        let mended = mender.as_ref().map_or(Ok(false), |mender| mender.cut(end))?;
        let (what, count) = if mended { ("Repairing", &mut report.leaks_fixed) } else { ("ERROR", &mut report.leaks) };
        *count += (len - end).div_ceil(header.cluster);
        findings.line(&format!("{what} space leaked at the end of the image {}", len - end))?;
        check.len = if mended { end } else { len };
    }
    check.duplicates((data, end), mender, findings, &mut report)?;
    let mut last = 0u64;
    check.each(|_, offset| {
        if offset.saturating_add(header.cluster) > end {
            last = 0;
            return Ok(());
        }
        report.allocated_clusters += u64::from(offset != 0);
        if offset != 0 && last != 0 && last.saturating_add(header.cluster) != offset {
            report.fragmented_clusters += 1;
        }
        last = offset;
        Ok(())
    })?;
    Ok(report)
}
