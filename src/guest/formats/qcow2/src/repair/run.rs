//! `check -r`: what the check finds is put right, in the order that harms nothing.
//!
//! 1. Entries that lead nowhere go first ([`super::mend`]): what they took is a leak then.
//! 2. Counts next ([`super::counts`]); where blocks are missing, or lie where something else is, all of them are written
//!    anew ([`super::rebuild`]).
//! 3. Copied flags by the new counts, and after them the snapshot table ([`super::snapshots`]).
//! 4. Last, of an image of which nothing wrong is left, the marks of one that was not closed or is corrupt.
//!
//! There is a barrier after each.

use alloc::format;

use instar_image::check::Quiet;
use instar_image::{CheckContext, CheckReport, Error, FileOffset, Machine, Repaired, Repairs, Result, Step};

use super::mend::Mend;
use super::{counts, snapshots};
use crate::Qcow2Image;
use crate::check::{FileExtent, Pass, finish};
use crate::cluster::ClusterNumber;
use crate::layout::{REFCOUNT_BLOCK_MASK, block_of, field, incompatible};
use crate::refcount::stored::Stored;

/// See [`instar_image::Image::repair`].
pub fn run(image: &mut Qcow2Image<'_>, what: Repairs, mut cx: CheckContext<'_>) -> Result<Repaired> {
    let (machine, all) = (cx.machine, what == Repairs::All);
    let barrier = [Step::Barrier { device: image.device }];
    let mut table = snapshots::look(image, what, &mut cx)?;
    let mut extent = FileExtent::of(image, machine)?;
    let mut stored = Stored::open(machine, image.device, &image.header)?;
    let outside = if all { forget_outside(image, &mut stored, &extent, &mut cx)? } else { 0 };
    let mut mend = Mend::new(image, machine, &stored)?;
    let mut pass = Pass::run(image, &stored, &extent, all.then_some(&mend), &mut cx)?;
    machine.submit(&barrier)?;
    // Nothing is written into a table that may be longer than it is, over what is something else's.
    pass.rebuild |= outside > 0;
    let found = pass.report;
    if pass.rebuild && !all {
        cx.findings.line("ERROR need to rebuild refcount structures")?;
        return Err(Error::malformed("Input/output error"));
    }
    let rebuilt = pass.rebuild;
    if rebuilt {
        pass.counted = None;
        cx.findings.line("Rebuilding refcount structure")?;
        snapshots::forget_in_header(image, &mut table, &mut cx)?;
        image.header.refcount_table = super::rebuild(image, machine, true)?;
        extent = FileExtent::of(image, machine)?;
        stored = Stored::open(machine, image.device, &image.header)?;
        mend = Mend::new(image, machine, &stored)?;
        pass = Pass::run(image, &stored, &extent, None, &mut cx)?;
        let now = &mut pass.report;
        now.corruptions_fixed = found.corruptions_fixed + found.corruptions.saturating_sub(now.corruptions);
        now.leaks_fixed = found.leaks_fixed + found.leaks.saturating_sub(now.leaks);
    } else if found.leaks > 0 || found.corruptions > 0 {
        counts::mend(image, what, &stored, &extent, &mut pass, &mut cx)?;
    }
    let report = &mut pass.report;
    report.corruptions_fixed = report.corruptions_fixed.saturating_add(outside);
    // Who has nothing left to say looks at all of it again: with all workers, that is soon done.
    let is_calm = pass.of_tables == 0 && report.check_errors == 0 && report.corruptions == 0 && report.leaks == 0;
    let again = if is_calm && report.corruptions_fixed + report.leaks_fixed > 0 {
        // What was written anew was looked at since.
        let is_known = rebuilt && !pass.suspicious && !pass.compare.has_bad_blocks && !image.geometry.external;
        pass.counted = None;
        if is_known {
            let now = CheckReport { corruptions_fixed: 0, leaks_fixed: 0, ..*report };
            Some(finish(image, now, &pass.compare, &mut cx)?)
        } else {
            sound(image, &stored, &extent, &cx)?
        }
    } else {
        None
    };
    let differed = found.leaks > 0 || found.corruptions > 0;
    if again.is_none() && (pass.suspicious || pass.compare.has_bad_blocks || differed) {
        // Flags alone are harmless to put right, where nothing else is wrong.
        let is_sound = report.corruptions == 0 && report.leaks == 0 && report.check_errors == 0;
        let mend = (all || is_sound).then_some(&mend);
        pass.compare.copied_flags(image, &stored, mend, &mut cx, report)?;
        machine.submit(&barrier)?;
    }
    if table.must_be_written {
        snapshots::write(image, machine)?;
    }
    report.corruptions = report.corruptions.saturating_add(table.wrong);
    report.corruptions_fixed = report.corruptions_fixed.saturating_add(table.fixed);
    if report.corruptions == 0 && report.check_errors == 0 {
        clear_marks(image, machine)?;
    }
    let report = finish(image, pass.report, &pass.compare, &mut cx)?;
    Ok(Repaired { report, again: again.filter(|_| table.wrong == 0 && !table.must_be_written) })
}

/// What a check finds; `None`: something.
fn sound(
    image: &Qcow2Image<'_>,
    stored: &Stored<'_>,
    extent: &FileExtent,
    cx: &CheckContext<'_>,
) -> Result<Option<CheckReport>> {
    let mut quiet = CheckContext { machine: cx.machine, findings: &mut Quiet };
    let pass = Pass::run(image, stored, extent, None, &mut quiet)?;
    let wrong = pass.report.corruptions + pass.report.leaks + pass.report.check_errors;
    if wrong > 0 || pass.suspicious || pass.compare.has_bad_blocks || image.geometry.external {
        return Ok(None);
    }
    finish(image, pass.report, &pass.compare, &mut quiet).map(Some)
}

/// Refcount blocks that are not in the file count nothing: in memory, the table no longer tells of them. Returns how many there
/// were.
fn forget_outside(
    image: &Qcow2Image<'_>,
    stored: &mut Stored<'_>,
    extent: &FileExtent,
    cx: &mut CheckContext<'_>,
) -> Result<u64> {
    let (bits, mut count) = (image.header.cluster_bits, 0u64);
    for (number, entry) in stored.table.entries.iter_mut().enumerate() {
        let (offset, is_whole) = (block_of(*entry), *entry & !REFCOUNT_BLOCK_MASK == 0);
        let is_outside = ClusterNumber::of(offset, bits) >= extent.behind && offset != FileOffset::ZERO;
        if is_whole && offset.is_multiple_of(1 << bits) && is_outside {
            cx.findings.line(&format!("Repairing refcount block {number} is outside image"))?;
            (*entry, count) = (0, count.saturating_add(1));
        }
    }
    Ok(count)
}

/// Nothing is wrong any more.
fn clear_marks(image: &Qcow2Image<'_>, machine: &dyn Machine) -> Result<()> {
    let (header, device) = (&image.header, image.device);
    let marks = incompatible::DIRTY | incompatible::CORRUPT;
    if header.incompatible & marks == 0 {
        return Ok(());
    }
    let features = (header.incompatible & !marks).to_be_bytes();
    let clean = Step::Write { device, offset: FileOffset::new(field::INCOMPATIBLE as u64), data: &features };
    machine.submit(&[Step::Barrier { device }, clean, Step::Barrier { device }])
}
