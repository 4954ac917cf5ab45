//! `check`: whether everything that refers to a cluster is counted in the refcounts, and nothing else.
//!
//! [`tables`] counts the references into a [`Sheet`], which also holds what [`Stored`] refcounts say; [`compare`] tells
//! where the two differ. All workers count at first, saying nothing; only when something is wrong is it counted again,
//! in the order in which qemu-img finds and says it.

mod compare;
mod snapshots;
pub mod tables;

use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};

use instar_image::walk::walk;
use instar_image::{CheckContext, CheckReport, DeviceId, Error, Extent, Machine, Place, Result};

use crate::Qcow2Image;
use crate::bitmaps::{self, Bitmap};
use crate::layout::{FILE_OFFSET_MAX, incompatible};
use crate::refcount::sheet::{Sheet, WINDOW};
use crate::refcount::stored::Stored;
use crate::window::numbers;
use tables::{Count, Out, Tally, loud, quiet};

/// Most clusters of a file that is checked (QEMU).
pub const CLUSTERS_MAX: u64 = i32::MAX as u64;

/// Checks the image. An error ends the check: its text is the reason.
pub fn run(image: &Qcow2Image<'_>, mut cx: CheckContext<'_>) -> Result<CheckReport> {
    let machine = cx.machine;
    let device = image.device;
    let incomplete = snapshots::first_look(image, &mut cx)?;
    let mut report = CheckReport { corruptions: incomplete, ..CheckReport::default() };
    let header = &image.header;
    let file_len = machine.stat(device)?.len;
    let clusters = file_len.div_ceil(header.cluster_size());
    if clusters > CLUSTERS_MAX {
        return Err(Error::limit("File too large"));
    }
    report.total_clusters = header.size.div_ceil(header.cluster_size());
    let stored = Stored::open(machine, device, header)?;
    let mut compare = compare::Compare::default();
    let mut suspicious = false;
    let mut window = 0;
    // A reference may reach into the cluster behind the last one.
    let reach = clusters.saturating_add(1);
    while window < reach || window == 0 {
        let end = reach.min(window.saturating_add(WINDOW));
        let sheet = Sheet::new(window..end, stored.table.geometry.max());
        stored.load(&sheet)?;
        let walk = Walk { image, device, stored: &stored, file_len, clusters };
        let later = window > 0;
        let mut counted = walk.count(&sheet, &cx, quiet(later))?;
        if counted.0.corruptions > 0 {
            sheet.clear();
            let machine = cx.machine;
            let again = CheckContext { machine, findings: &mut *cx.findings };
            counted = walk.count_loudly(&sheet, again, later)?;
        }
        let (tally, reached) = counted;
        report.corruptions = report.corruptions.saturating_add(tally.corruptions);
        suspicious |= tally.corruptions > 0 || tally.copied > 0;
        if !later {
            report.allocated_clusters = tally.allocated;
            report.fragmented_clusters = tally.fragmented;
            report.compressed_clusters = tally.compressed;
        }
        compare.window(&sheet, &stored, reached, &mut cx, &mut report)?;
        window = end;
    }
    if suspicious || compare.has_bad_blocks {
        compare.copied_flags(image, &stored, &mut cx, &mut report)?;
    }
    if image.geometry.external && report.corruptions == 0 {
        unreadable(image, &mut cx, &mut report)?;
    }
    report.image_end_offset = Some(compare.highest.saturating_add(1) << header.cluster_bits);
    Ok(report)
}

/// In a data file each cluster has its own place. What lies elsewhere cannot be read, of which the stock tool's check tells
/// nothing.
fn unreadable(image: &Qcow2Image<'_>, cx: &mut CheckContext<'_>, report: &mut CheckReport) -> Result<()> {
    let (size, cluster) = (image.header.size, image.header.cluster_size());
    let mut all = walk(0..size, |at, max| match image.map.extent(at, max) {
        Err(error) => {
            cx.findings.line(&format!("ERROR offset={at:x}: the cluster cannot be read: {error}"))?;
            report.corruptions = report.corruptions.saturating_add(1);
            Ok(Extent { at, len: cluster - at % cluster, place: Place::Unallocated })
        }
        found => found,
    });
    all.try_for_each(|extent| extent.map(|_| ()))
}

/// Everything that refers to clusters, in qemu-img's order.
pub struct Walk<'w, 'a> {
    /// The image.
    pub image: &'w Qcow2Image<'a>,
    /// Its device.
    pub device: DeviceId,
    /// Its own counts.
    pub stored: &'w Stored<'w>,
    /// Bytes of the file, or of what is going to be in it.
    pub file_len: u64,
    /// Clusters of them.
    pub clusters: u64,
}

impl Walk<'_, '_> {
    fn count_loudly(&self, sheet: &Sheet, mut cx: CheckContext<'_>, later: bool) -> Result<(Tally, u64)> {
        let machine = cx.machine;
        self.count_with(sheet, machine, loud(&mut cx, later))
    }

    fn count(&self, sheet: &Sheet, cx: &CheckContext<'_>, out: Out<'_>) -> Result<(Tally, u64)> {
        self.count_with(sheet, cx.machine, out)
    }

    /// Returns what was found, and the number of clusters that references reach.
    fn count_with(&self, sheet: &Sheet, machine: &dyn Machine, mut out: Out<'_>) -> Result<(Tally, u64)> {
        let count = self.counting(sheet, machine);
        let out = &mut out;
        self.count_but_blocks(&count, out)?;
        self.blocks(&count, out)?;
        Ok((out.tally, count.clusters.load(Ordering::Relaxed)))
    }

    /// Where references are counted.
    pub fn counting<'c>(&self, sheet: &'c Sheet, machine: &'c dyn Machine) -> Count<'c> {
        let mut geometry = self.image.geometry;
        geometry.data = self.device;
        let clusters = AtomicU64::new(self.clusters);
        Count { machine, device: self.device, geometry, file_len: self.file_len, clusters, sheet }
    }

    /// Counts all references but those to the refcount blocks.
    pub fn count_but_blocks(&self, count: &Count<'_>, out: &mut Out<'_>) -> Result<()> {
        let header = &self.image.header;
        count.refer(0, header.cluster_size(), out)?;
        count.l1(header.l1_offset, u64::from(header.l1_size), true, out)?;
        if header.has(incompatible::DATA_FILE) && header.snapshot_count > 0 {
            let snapshots = header.snapshot_count;
            out.corruption(&|| format!("ERROR {snapshots} snapshots in image with data file"))?;
        }
        snapshots::count(self.image, count, out)?;
        count.refer(self.stored.table.place.0, self.stored.table.place.1, out)?;
        if let Some((offset, len)) = self.image.extensions.crypto_header {
            count.refer(offset, len, out)?;
        }
        if let Some(directory) = self.image.extensions.bitmaps {
            count.refer(directory.offset, directory.size, out)?;
            for bitmap in &self.image.bitmaps {
                self.bitmap(bitmap, count, out)?;
            }
        }
        Ok(())
    }

    fn bitmap(&self, bitmap: &Bitmap, count: &Count<'_>, out: &mut Out<'_>) -> Result<()> {
        let (offset, entries) = bitmap.table;
        count.refer(offset, entries.saturating_mul(8), out)?;
        if offset.saturating_add(entries.saturating_mul(8)) > FILE_OFFSET_MAX {
            return Err(Error::malformed("Input/output error"));
        }
        let cluster = self.image.header.cluster_size();
        numbers(count.machine.source(), self.device, offset, entries, &mut |_, numbers| {
            for entry in numbers {
                match bitmaps::cluster(*entry, cluster).ok_or_else(|| Error::malformed("Invalid argument"))? {
                    0 => {}
                    at => count.refer(at, cluster, out)?,
                }
            }
            Ok(())
        })
    }

    fn blocks(&self, count: &Count<'_>, out: &mut Out<'_>) -> Result<()> {
        const RESERVED: u64 = !crate::layout::REFCOUNT_BLOCK_MASK;
        let bits = self.image.header.cluster_bits;
        for (number, entry) in self.stored.table.entries.iter().copied().enumerate() {
            let offset = entry & crate::layout::REFCOUNT_BLOCK_MASK;
            let cluster = offset >> bits;
            if entry & RESERVED != 0 {
                out.corruption(&|| format!("ERROR refcount table entry {number} has reserved bits set"))?;
            } else if !offset.is_multiple_of(1 << bits) {
                out.corruption(&|| {
                    format!("ERROR refcount block {number} is not cluster aligned; refcount table entry corrupted")
                })?;
            } else if cluster >= count.clusters.load(Ordering::Relaxed) {
                out.corruption(&|| format!("ERROR refcount block {number} is outside image"))?;
            } else if offset != 0 {
                count.refer(offset, 1 << bits, out)?;
                if let Some(references) = count.sheet.references(cluster).filter(|n| *n != 1) {
                    out.of_window(&|| format!("ERROR refcount block {number} refcount={references}"))?;
                }
            }
        }
        Ok(())
    }
}
