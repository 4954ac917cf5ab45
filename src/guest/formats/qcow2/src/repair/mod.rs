//! Refcounts written anew, from what refers to the clusters: for an image that was not closed, whose own counts may be
//! behind (spec, "dirty bit").
//!
//! [`survey`] counts, window by window, and finds which refcount blocks are of use and which are missing; what is missing
//! gets its place behind all that is in use. Then the blocks are written, each in its place where it has one, and
//! [`crate::flags`] sets the copied flags by the new counts; after a barrier the table tells of new blocks, after another one the
//! header of a new table. All the time the image says of itself that it is dirty: of a run that is cut, nothing of the
//! counts is believed, and the next one begins anew. [`recover`] takes the mark away last.

pub mod counts;
pub mod mend;
mod run;
pub mod snapshots;
mod survey;

pub use run::run;

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::check::Quiet;
use instar_image::table::Span;
use instar_image::{CheckContext, Error, FileOffset, Machine, OpenContext, Purpose, Result, Step};

use crate::Qcow2Image;
use crate::check::{self, CLUSTERS_MAX};
use crate::cluster::{self, ClusterNumber};
use crate::flags::Flags;
use crate::header::Header;
use crate::layout::{L1_BYTES_MAX, L1_ENTRY, L1_OFFSET_MASK, REFCOUNT_TABLE_BYTES_MAX, field, incompatible};
use crate::refcount::sheet::{Sheet, windows};
use crate::refcount::stored::Stored;
use crate::refcount::table::{ENTRY, Table};
use crate::snapshots::Walk;
use crate::window::{Window, numbers};

/// Bytes of tables that are walked through for one count, the windows taken together. A disk of 128 TiB in clusters of
/// 64 KiB has so many; what claims more is damaged or hostile.
const WORK_MAX: u64 = 16 << 30;
/// Bytes of blocks that wait to be written.
const WAITING_MAX: usize = 4 << 20;

/// See [`instar_image::Format::recover`].
///
/// Of an image that says that it is corrupt nothing is believed. QEMU refuses to open it for writing, but writes into one
/// that it has open: that is done where a check finds nothing wrong.
pub fn recover(machine: &dyn Machine, cx: &OpenContext<'_, '_>, lower: bool) -> Result<()> {
    let mut window = Window::new(cx.source, cx.device);
    // What is wrong with a header is said by whoever opens the image.
    let Ok(header) = Header::parse(&mut window, cx.version) else { return Ok(()) };
    let (is_dirty, is_corrupt) = (header.has(incompatible::DIRTY), header.has(incompatible::CORRUPT));
    if !is_dirty && !is_corrupt {
        return Ok(());
    }
    let refused = || {
        let error = Error::corrupt("qcow2: Image is corrupt; cannot be opened read/write");
        Err(error.with_hint("qemu-img check -r all may repair it"))
    };
    if is_corrupt && (is_dirty || !lower) {
        return refused();
    }
    let device = cx.device;
    let image = crate::open(OpenContext { opener: None, purpose: Purpose::Describe, ..*cx });
    if is_corrupt {
        let is_sound = image.and_then(|image| is_sound(&image, machine));
        return if is_sound? { Ok(()) } else { refused() };
    }
    let image = image?;
    rebuild(&image, machine, false).map_err(|reason| {
        let text = "Could not repair dirty image: Input/output error";
        Error::corrupt(text).after(reason.message).with_hint("qemu-img check tells of all that is wrong")
    })?;
    let features = (header.incompatible & !incompatible::DIRTY).to_be_bytes();
    let clean = Step::Write { device, offset: FileOffset::new(field::INCOMPATIBLE as u64), data: &features };
    machine.submit(&[Step::Barrier { device }, clean, Step::Barrier { device }])
}

fn is_sound(image: &Qcow2Image<'_>, machine: &dyn Machine) -> Result<bool> {
    let report = check::run(image, CheckContext { machine, findings: &mut Quiet })?;
    Ok(report.corruptions == 0 && report.check_errors == 0)
}

/// Makes refcounts say what refers to the clusters. Returns where the table is then, and its clusters.
///
/// `checked`: whoever has looked for errors wants all refcounts, whatever is wrong besides, and sets the copied flags. Else the
/// image is marked as dirty, and stays so; flags are set, and what counting alone does not mend is refused.
fn rebuild(image: &Qcow2Image<'_>, machine: &dyn Machine, checked: bool) -> Result<(FileOffset, u32)> {
    let mut stored = Stored::open(machine, image.device, &image.header)?;
    let before = stored.table.clone();
    let file_end = machine.stat(image.device)?.end();
    let behind = ClusterNumber::behind(file_end, image.header.cluster_bits);
    if behind.get() > CLUSTERS_MAX {
        return Err(Error::limit("File too large"));
    }
    let repair = Repair { image, machine, file_end, behind, checked };
    repair.check_work(repair.windows(behind.saturating_add(1), &stored).count() as u64)?;
    let survey = repair.survey(&mut stored)?;
    let fresh = repair.lay_out(&survey, &mut stored)?;
    repair.write(&stored, &fresh)?;
    repair.publish(&stored, &before)?;
    let (offset, len) = stored.table.place;
    Ok((offset, u32::try_from(len >> image.header.cluster_bits).unwrap_or(u32::MAX)))
}

/// Clusters that were given to refcounts.
struct Fresh {
    /// The first one.
    first: ClusterNumber,
    /// How many.
    count: u64,
}

struct Repair<'r, 'a> {
    image: &'r Qcow2Image<'a>,
    machine: &'r dyn Machine,
    /// End of the file, before anything.
    file_end: FileOffset,
    /// The first cluster behind it.
    behind: ClusterNumber,
    /// See [`rebuild`].
    checked: bool,
}

impl Repair<'_, '_> {
    /// The windows of all clusters before `end`, each of whole blocks.
    fn windows(&self, end: ClusterNumber, stored: &Stored<'_>) -> impl Iterator<Item = Range<ClusterNumber>> + use<> {
        windows(stored.table.geometry, end)
    }

    /// Refuses tables that would take for ever.
    fn check_work(&self, windows: u64) -> Result<()> {
        let header = &self.image.header;
        let too_much = || Error::limit("the image's tables are too large to be repaired at once");
        let active = (header.l1_offset, u64::from(header.l1_size));
        let mut left = WORK_MAX / windows.max(1);
        let mut tables = vec![active];
        let mut window = Window::new(self.machine.source(), self.image.device);
        let mut walk = Walk::lenient(header);
        while let Some(entry) = walk.next(&mut window)? {
            // What is no table is not walked through.
            if entry.l1_offset.is_multiple_of(header.cluster_size())
                && u64::from(entry.l1_size) <= L1_BYTES_MAX / L1_ENTRY
            {
                tables.push((entry.l1_offset, u64::from(entry.l1_size)));
            }
        }
        for (offset, size) in tables {
            left = left.checked_sub(size.saturating_mul(L1_ENTRY)).ok_or_else(too_much)?;
            numbers(self.machine.source(), self.image.device, offset, size, &mut |_, entries| {
                let tables = entries.iter().filter(|entry| *entry & L1_OFFSET_MASK != 0).count() as u64;
                left = left.checked_sub(tables << header.cluster_bits).ok_or_else(too_much)?;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Gives every block that is missing a place behind all that is in use, and the table one, if it needs another.
    fn lay_out(&self, survey: &survey::Survey, stored: &mut Stored<'_>) -> Result<Fresh> {
        let bits = self.image.header.cluster_bits;
        let too_large = || Error::limit("File too large");
        let first = survey.reached;
        let mut missing = survey.missing.clone();
        let mut table_clusters = 0;
        // Blocks and table count themselves: until nothing is added.
        let count = loop {
            let count = missing.len() as u64 + table_clusters;
            let entries = missing.last().map_or(0, |last| last + 1);
            let wanted = if entries > stored.table.entries.len() as u64 || survey.table_moves {
                entries.max(stored.table.entries.len() as u64).saturating_mul(ENTRY).div_ceil(1 << bits)
            } else {
                0
            };
            if wanted << bits > REFCOUNT_TABLE_BYTES_MAX {
                return Err(too_large());
            }
            let own = if count == 0 { 0..0 } else { stored.table.geometry.blocks_of(first..first + count) };
            let more: Vec<u64> = own
                .filter(|number| stored.table.offset(*number) == FileOffset::ZERO && !missing.contains(number))
                .collect();
            if more.is_empty() && wanted == table_clusters {
                break count;
            }
            missing.extend(more);
            table_clusters = wanted;
        };
        if table_clusters > 0 {
            let place = (first + missing.len() as u64).offset(bits);
            stored.table.place = (place, table_clusters << bits);
            let entries = stored.table.place.1 / ENTRY;
            stored.table.entries.resize(usize::try_from(entries).map_err(|_| too_large())?, 0);
        }
        for (number, index) in missing.iter().zip(0..) {
            if !stored.table.set(*number, (first + index).offset(bits)) {
                return Err(too_large());
            }
        }
        Ok(Fresh { first, count })
    }

    /// Writes all blocks that do not say what they should, and the copied flags.
    fn write(&self, stored: &Stored<'_>, fresh: &Fresh) -> Result<()> {
        let header = &self.image.header;
        let end = fresh.first + fresh.count;
        let file_end = self.file_end.max(end.offset(header.cluster_bits));
        let after = Repair { file_end, behind: end, ..*self };
        for range in after.windows(end, stored) {
            let sheet = Sheet::new(range, stored.table.geometry.max());
            after.count(&sheet, stored, |_| Ok(()))?;
            after.write_blocks(&sheet, stored, fresh)?;
            if !self.checked {
                let (machine, device, geometry) = (self.machine, self.image.device, &self.image.geometry);
                let is_single = &|cluster| sheet.references(cluster).map(|count| count == 1);
                let l1 = Span { offset: header.l1_offset, count: u64::from(header.l1_size) };
                Flags { machine, device, geometry, is_single }.set(l1)?;
            }
        }
        self.barrier()
    }

    fn write_blocks(&self, sheet: &Sheet, stored: &Stored<'_>, fresh: &Fresh) -> Result<()> {
        let header = &self.image.header;
        let (machine, device, geometry) = (self.machine, self.image.device, stored.table.geometry);
        let mut waiting: Vec<(FileOffset, Vec<u8>)> = Vec::new();
        let write = |waiting: &mut Vec<(FileOffset, Vec<u8>)>| {
            let steps: Vec<Step<'_>> =
                waiting.iter().map(|(offset, data)| Step::Write { device, offset: *offset, data }).collect();
            machine.submit(&steps)?;
            waiting.clear();
            Ok(())
        };
        let mut old = vec![0; 1 << header.cluster_bits];
        for number in geometry.blocks_of(sheet.range.clone()) {
            let offset = stored.table.offset(number);
            if offset == FileOffset::ZERO {
                continue;
            }
            let mut block = vec![0; 1 << header.cluster_bits];
            let clusters = geometry.first(number)..geometry.first(number + 1);
            for (index, cluster) in cluster::each(clusters).enumerate() {
                if let Some(count) = sheet.references(cluster).filter(|count| *count > 0) {
                    geometry.set(&mut block, index, count);
                }
            }
            let is_fresh = ClusterNumber::of(offset, header.cluster_bits) >= fresh.first;
            if !is_fresh {
                machine.read(device, offset, &mut old)?;
            }
            if is_fresh || old != block {
                waiting.push((offset, block));
            }
            if waiting.len() << header.cluster_bits >= WAITING_MAX {
                write(&mut waiting)?;
            }
        }
        write(&mut waiting)
    }

    /// Makes the blocks known. `before`: the table as it is in the file.
    fn publish(&self, stored: &Stored<'_>, before: &Table) -> Result<()> {
        let (machine, device, table) = (self.machine, self.image.device, &stored.table);
        if table.place != before.place {
            table.write(machine, device, 0..table.entries.len())?;
            return table.publish(machine, device);
        }
        let differs = |(new, old): &(&u64, &u64)| new != old;
        let pairs = || table.entries.iter().zip(&before.entries);
        let first = pairs().position(|pair| differs(&pair));
        let last = pairs().enumerate().rfind(|(_, pair)| differs(pair));
        let (Some(first), Some((last, _))) = (first, last) else { return Ok(()) };
        table.write(machine, device, first..last + 1)
    }

    fn barrier(&self) -> Result<()> {
        self.machine.submit(&[Step::Barrier { device: self.image.device }])
    }
}
