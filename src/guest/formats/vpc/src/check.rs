//! What a check of a VHD looks at; the stock tool has none for this format.

use alloc::format;
use alloc::vec::Vec;

use instar_image::{CheckContext, CheckReport, DeviceId, FileOffset, Result, Source};

use crate::header::{Dynamic, Footer, Kind};
use crate::layout::{DYNAMIC_HEADER, FOOTER, SECTOR, bitmap_len};

/// Most blocks whose places are compared with each other: what a disk of 2040 GiB has at 512 KiB a block.
pub const PLACES_MAX: u64 = 1 << 22;

/// The image as far as a check needs it.
pub struct Subject<'s> {
    pub device: DeviceId,
    pub footer: &'s Footer,
    /// Of all but fixed disks.
    pub dynamic: Option<&'s Dynamic>,
}

/// Checks it.
pub fn check(subject: &Subject<'_>, mut cx: CheckContext<'_>) -> Result<CheckReport> {
    let source = cx.machine.source();
    let file_end = source.stat(subject.device)?.end();
    let mut report = CheckReport::default();
    if subject.footer.kind == Kind::Fixed && !subject.footer.at_start {
        let room = file_end.next_multiple_of(SECTOR).saturating_sub(SECTOR).get();
        if room < subject.footer.size {
            wrong(&mut cx, &mut report, format!("the disk has {} bytes, the file only {room}", subject.footer.size))?;
        }
        report.image_end_offset = Some(file_end.get());
        return Ok(report);
    }
    let Some(header) = subject.dynamic else { return Ok(report) };
    footers(source, subject, file_end, &mut cx, &mut report)?;
    if !header.sound {
        wrong(&mut cx, &mut report, "checksum of the dynamic disk header is wrong".into())?;
    }
    blocks(source, subject, header, file_end, &mut cx, &mut report)?;
    Ok(report)
}

fn wrong(cx: &mut CheckContext<'_>, report: &mut CheckReport, what: alloc::string::String) -> Result<()> {
    report.corruptions += 1;
    cx.findings.line(&format!("ERROR {what}"))
}

/// The footer at the end and its copy at the beginning must be the same.
fn footers(
    source: &dyn Source,
    subject: &Subject<'_>,
    file_end: FileOffset,
    cx: &mut CheckContext<'_>,
    report: &mut CheckReport,
) -> Result<()> {
    let (mut head, mut tail) = ([0; FOOTER], [0; FOOTER]);
    source.read(subject.device, FileOffset::ZERO, &mut head)?;
    source.read(subject.device, file_end.saturating_sub(SECTOR), &mut tail)?;
    if head == tail {
        return Ok(());
    }
    let which = if subject.footer.at_start { "the footer at the end" } else { "the copy of the footer at the start" };
    wrong(cx, report, format!("{which} is damaged"))
}

/// Every block lies in the file, behind headers and table, and no two of them in the same place.
pub fn blocks(
    source: &dyn Source,
    subject: &Subject<'_>,
    header: &Dynamic,
    file_end: FileOffset,
    cx: &mut CheckContext<'_>,
    report: &mut CheckReport,
) -> Result<()> {
    let whole = bitmap_len(header.block) + header.block;
    let table_end = header.table.saturating_add(header.entries * 4);
    let header_at = subject.footer.data_offset;
    let header_end = header_at.saturating_add(DYNAMIC_HEADER as u64);
    let total = subject.footer.size.div_ceil(header.block);
    report.total_clusters = total;
    if table_end > file_end {
        wrong(cx, report, "the block allocation table lies outside the file".into())?;
        return Ok(());
    }
    let table = header.blocks(subject.device, subject.footer.size);
    let mut places: Vec<FileOffset> = Vec::new();
    let (mut end, mut before) = (table_end.next_multiple_of(SECTOR), None);
    table.each(source, |block, entry| {
        let Some(offset) = table.place(entry) else { return Ok(()) };
        if offset.saturating_add(whole) > file_end {
            return wrong(cx, report, format!("block {block} at {offset:#x} lies outside the file"));
        }
        let meets = |from: FileOffset, to: FileOffset| offset < to && offset + whole > from;
        if offset < FileOffset::new(FOOTER as u64) || meets(header_at, header_end) || meets(header.table, table_end) {
            wrong(cx, report, format!("block {block} at {offset:#x} overlaps the headers"))?;
        }
        report.allocated_clusters += u64::from(block < total);
        report.fragmented_clusters += u64::from(before.is_some_and(|b: FileOffset| b.saturating_add(whole) != offset));
        before = Some(offset);
        end = end.max(offset + whole);
        if (places.len() as u64) < PLACES_MAX {
            places.push(offset);
        }
        Ok(())
    })?;
    places.sort_unstable();
    for (at, next) in places.iter().zip(places.iter().skip(1)) {
        if *at + whole > *next {
            wrong(cx, report, format!("two blocks share bytes at {next:#x}"))?;
        }
    }
    // What lies between the blocks is lost: nothing ever takes it again. A table that has grown may lie there, too.
    let first = places.first().copied().unwrap_or(end);
    let moved = if header.table > first { header.entries * 4 } else { 0 };
    let used = (places.len() as u64).saturating_mul(whole).saturating_add(moved);
    let room = end.saturating_since(first);
    report.leaks = room.saturating_sub(used) / whole;
    report.image_end_offset = Some(end.get());
    Ok(())
}
