//! `check`: whether everything that refers to a cluster is counted in the refcounts, and nothing else.
//!
//! [`tables`] counts the references into a [`Sheet`], which also holds what [`Stored`] refcounts say; [`compare`] tells
//! where the two differ. All workers count at first, saying nothing; only when something is wrong is it counted again,
//! in the order in which qemu-img finds and says it.

pub mod compare;
pub mod snapshots;
pub mod tables;

use alloc::format;
use core::sync::atomic::AtomicU64;

use instar_image::walk::walk;
use instar_image::{CheckContext, CheckReport, DeviceId, Error, Extent, FileOffset, Machine, Place, Result};

use crate::Qcow2Image;
use crate::bitmaps::{self, Bitmap};
use crate::cluster::ClusterNumber;
use crate::layout::{FILE_OFFSET_MAX, incompatible};
use crate::refcount::sheet::{Sheet, WINDOW};
use crate::refcount::stored::Stored;
use crate::repair::mend::Mend;
use crate::window::numbers;
use compare::Compare;
use tables::{Count, Out, Tally, loud, quiet};

/// Most clusters of a file that is checked (QEMU).
pub const CLUSTERS_MAX: u64 = i32::MAX as u64;

/// Checks the image. An error ends the check: its text is the reason.
pub fn run(image: &Qcow2Image<'_>, mut cx: CheckContext<'_>) -> Result<CheckReport> {
    let incomplete = snapshots::first_look(image, &mut cx)?;
    let extent = FileExtent::of(image, cx.machine)?;
    let stored = Stored::open(cx.machine, image.device, &image.header)?;
    let mut pass = Pass::run(image, &stored, &extent, None, &mut cx)?;
    if pass.suspicious || pass.compare.has_bad_blocks {
        pass.compare.copied_flags(image, &stored, None, &mut cx, &mut pass.report)?;
    }
    pass.report.corruptions = pass.report.corruptions.saturating_add(incomplete);
    finish(image, pass.report, &pass.compare, &mut cx)
}

/// What is looked at last, and where the image ends.
pub fn finish(
    image: &Qcow2Image<'_>,
    mut report: CheckReport,
    compare: &Compare,
    cx: &mut CheckContext<'_>,
) -> Result<CheckReport> {
    if image.geometry.external && report.corruptions == 0 {
        unreadable(image, cx, &mut report)?;
    }
    report.image_end_offset = Some(compare.highest.saturating_add(1).offset(image.header.cluster_bits).get());
    Ok(report)
}

/// How far the file goes.
pub struct FileExtent {
    /// Its end.
    pub end: FileOffset,
    /// The first cluster behind it.
    pub behind: ClusterNumber,
}

impl FileExtent {
    /// Refuses what has more clusters than the stock tool counts.
    pub fn of(image: &Qcow2Image<'_>, machine: &dyn Machine) -> Result<Self> {
        let end = machine.stat(image.device)?.end();
        let behind = ClusterNumber::behind(end, image.header.cluster_bits);
        if behind.get() > CLUSTERS_MAX { Err(Error::limit("File too large")) } else { Ok(Self { end, behind }) }
    }

    /// The windows of its clusters. A reference may reach into the cluster behind the last one.
    pub fn windows(&self) -> impl Iterator<Item = core::ops::Range<ClusterNumber>> + use<> {
        let reach = self.behind.saturating_add(1);
        let starts = (0..reach.get().div_ceil(WINDOW)).map(|number| ClusterNumber::new(number.saturating_mul(WINDOW)));
        starts.map(move |start| start..reach.min(start.saturating_add(WINDOW)))
    }
}

/// Everything counted once, and compared.
pub struct Pass {
    /// What was found, and what was repaired on the way.
    pub report: CheckReport,
    /// Errors of tables: those that comparing counts has not found.
    pub of_tables: u64,
    /// The refcount blocks cannot stay where they are.
    pub rebuild: bool,
    /// There may be wrong copied flags.
    pub suspicious: bool,
    /// What comparing has come to.
    pub compare: Compare,
    /// What was counted, and up to which cluster, where one window holds everything.
    pub counted: Option<(Sheet, ClusterNumber)>,
}

impl Pass {
    /// Counts window by window. With `mend`, entries that can be put right at once are.
    pub fn run(
        image: &Qcow2Image<'_>,
        stored: &Stored<'_>,
        extent: &FileExtent,
        mend: Option<&Mend<'_>>,
        cx: &mut CheckContext<'_>,
    ) -> Result<Self> {
        let mut report = CheckReport {
            total_clusters: image.header.size.div_ceil(image.header.cluster_size()),
            ..CheckReport::default()
        };
        let (mut compare, mut of_tables, mut rebuild, mut suspicious) = (Compare::default(), 0u64, false, false);
        let (is_only, mut counted) = (extent.windows().count() == 1, None);
        for window in extent.windows() {
            let later = window.start > ClusterNumber::FIRST;
            let sheet = Sheet::new(window, stored.table.geometry.max());
            stored.load(&sheet)?;
            let walk = Walk { image, device: image.device, stored, file_end: extent.end, behind: extent.behind };
            let (mut tally, mut reached) = walk.count_with(&sheet, cx.machine, quiet(later))?;
            if tally.corruptions > 0 {
                sheet.clear();
                let machine = cx.machine;
                (tally, reached) = walk.count_with(&sheet, machine, Out { mend, ..loud(cx, later) })?;
            }
            of_tables = of_tables.saturating_add(tally.corruptions);
            report.corruptions_fixed = report.corruptions_fixed.saturating_add(tally.fixed);
            rebuild |= tally.rebuild;
            suspicious |= tally.corruptions > 0 || tally.fixed > 0 || tally.copied > 0;
            if !later {
                report.allocated_clusters = tally.allocated;
                report.fragmented_clusters = tally.fragmented;
                report.compressed_clusters = tally.compressed;
            }
            compare.window(&sheet, stored, reached, None, cx, &mut report)?;
            counted = is_only.then_some((sheet, reached));
        }
        report.corruptions = report.corruptions.saturating_add(of_tables);
        rebuild |= compare.uncounted;
        Ok(Self { report, of_tables, rebuild, suspicious, compare, counted })
    }
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
    /// End of the file, or of what is going to be in it.
    pub file_end: FileOffset,
    /// The first cluster behind it.
    pub behind: ClusterNumber,
}

impl Walk<'_, '_> {
    /// Returns what was found, and the cluster behind all that references reach.
    pub fn count_with(&self, sheet: &Sheet, machine: &dyn Machine, mut out: Out<'_>) -> Result<(Tally, ClusterNumber)> {
        let count = self.counting(sheet, machine);
        let out = &mut out;
        self.count_but_blocks(&count, out)?;
        self.blocks(&count, out)?;
        Ok((out.tally, count.behind()))
    }

    /// Where references are counted.
    pub fn counting<'c>(&self, sheet: &'c Sheet, machine: &'c dyn Machine) -> Count<'c> {
        let mut geometry = self.image.geometry;
        geometry.data = self.device;
        let behind = AtomicU64::new(self.behind.get());
        Count { machine, device: self.device, geometry, file_end: self.file_end, behind, sheet }
    }

    /// Counts all references but those to the refcount blocks.
    pub fn count_but_blocks(&self, count: &Count<'_>, out: &mut Out<'_>) -> Result<()> {
        let header = &self.image.header;
        count.refer(FileOffset::ZERO, header.cluster_size(), out)?;
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
                    FileOffset::ZERO => {}
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
            let offset = crate::layout::block_of(entry);
            let cluster = ClusterNumber::of(offset, bits);
            if entry & RESERVED != 0 {
                out.tally.rebuild = true;
                out.corruption(&|| format!("ERROR refcount table entry {number} has reserved bits set"))?;
            } else if !offset.is_multiple_of(1 << bits) {
                out.tally.rebuild = true;
                out.corruption(&|| {
                    format!("ERROR refcount block {number} is not cluster aligned; refcount table entry corrupted")
                })?;
            } else if cluster >= count.behind() {
                out.corruption(&|| format!("ERROR refcount block {number} is outside image"))?;
            } else if offset != FileOffset::ZERO {
                count.refer(offset, 1 << bits, out)?;
                if let Some(references) = count.sheet.references(cluster).filter(|n| *n != 1) {
                    out.tally.rebuild = true;
                    out.of_window(&|| format!("ERROR refcount block {number} refcount={references}"))?;
                }
            }
        }
        Ok(())
    }
}
