//! Counting what the L1 and L2 tables refer to.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use instar_image::{CheckContext, DeviceId, Error, FileOffset, Findings, Machine, Read, Result};
use spin::Mutex;

use crate::cluster::{self, ClusterNumber};
use crate::entry::{Geometry, compressed_range};
use crate::layout::{
    FILE_OFFSET_MAX, L1_ENTRY, L2_OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED, OFLAG_ZERO, host_of, table_of,
};
use crate::refcount::sheet::Sheet;
use crate::repair::mend::Mend;
use crate::window::numbers;

/// Bits of an L1 entry that must be zero.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bits of an L2 entry of a plain cluster that must be zero.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Bytes of L2 tables that a worker reads at once.
const PIECE: usize = 512 << 10;

/// What was found so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Errors.
    pub corruptions: u64,
    /// Errors that were repaired.
    pub fixed: u64,
    /// The refcount table cannot stay as it is.
    pub rebuild: bool,
    /// Clusters with data, plain and compressed.
    pub allocated: u64,
    /// Of them, those that do not follow the one before.
    pub fragmented: u64,
    /// Of them, the compressed.
    pub compressed: u64,
    /// Entries whose copied flag is wrong, as far as this window can tell.
    pub copied: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.corruptions = self.corruptions.saturating_add(other.corruptions);
        self.fixed = self.fixed.saturating_add(other.fixed);
        self.rebuild |= other.rebuild;
        self.allocated = self.allocated.saturating_add(other.allocated);
        self.fragmented = self.fragmented.saturating_add(other.fragmented);
        self.compressed = self.compressed.saturating_add(other.compressed);
        self.copied = self.copied.saturating_add(other.copied);
    }
}

/// Where a count goes on: what was found, and who is told. Without [`Findings`] nobody is, and whoever finds that
/// something was found counts again.
pub struct Out<'f> {
    /// What was found.
    pub tally: Tally,
    /// Who is told.
    pub findings: Option<&'f mut dyn Findings>,
    /// Not the first window: all that is not about its clusters is said already.
    pub later: bool,
    /// What can be put right at once is.
    pub mend: Option<&'f Mend<'f>>,
}

impl Out<'_> {
    /// An error in a table.
    pub fn corruption(&mut self, text: &dyn Fn() -> String) -> Result<()> {
        if self.later {
            return Ok(());
        }
        self.of_window(text)
    }

    /// An entry that is to become another one: it is put right, if that may be.
    fn wrong_entry(&mut self, at: FileOffset, right: u64, text: &dyn Fn() -> String) -> Result<bool> {
        let Some(mend) = self.mend.filter(|_| !self.later) else {
            self.corruption(&|| format!("ERROR {}", text()))?;
            return Ok(false);
        };
        if let Some(findings) = &mut self.findings {
            findings.line(&format!("Repairing {}", text()))?;
            if mend.entry(at, right, &mut **findings)? {
                self.tally.fixed = self.tally.fixed.saturating_add(1);
                return Ok(true);
            }
        }
        self.tally.corruptions = self.tally.corruptions.saturating_add(1);
        Ok(false)
    }

    /// An error about a cluster of the window.
    pub fn of_window(&mut self, text: &dyn Fn() -> String) -> Result<()> {
        self.tally.corruptions = self.tally.corruptions.saturating_add(1);
        match &mut self.findings {
            Some(findings) => findings.line(&text()),
            None => Ok(()),
        }
    }
}

/// One walk over everything that refers to clusters.
pub struct Count<'c> {
    /// All devices.
    pub machine: &'c dyn Machine,
    /// The image's device.
    pub device: DeviceId,
    /// What the numbers mean.
    pub geometry: Geometry,
    /// End of the file.
    pub file_end: FileOffset,
    /// The number of the cluster behind those that the file has, or is about to have: a reference may lie in one that was not
    /// wholly written.
    pub behind: AtomicU64,
    /// Where they are counted.
    pub sheet: &'c Sheet,
}

/// An L2 table to be counted: the entry of the L1 table.
struct Job<'e>(&'e [u64]);

/// An entry of an L2 table.
struct Slot {
    entry: u64,
    bitmap: u64,
    /// Number in the table.
    index: usize,
    /// Where it is in the file.
    at: FileOffset,
}

impl Count<'_> {
    /// The cluster behind those that the file has, or is about to have.
    pub fn behind(&self) -> ClusterNumber {
        ClusterNumber::new(self.behind.load(Ordering::Relaxed))
    }

    /// Counts a reference to each cluster that the range touches.
    pub fn refer(&self, offset: FileOffset, len: u64, out: &mut Out<'_>) -> Result<()> {
        let g = &self.geometry;
        if len == 0 {
            return Ok(());
        }
        if offset > FileOffset::END_MAX {
            // Below zero to the stock tool, whose counters would have to reach that far.
            return Err(Error::limit("Cannot allocate memory"));
        }
        let end = offset.saturating_add(len);
        if end.checked_since(self.file_end).is_some_and(|over| over >= g.cluster_size()) {
            return out.corruption(&|| {
                format!(
                    "ERROR: counting reference for region exceeding the end of the file by one cluster or more: \
                     offset {offset:#x} size {len:#x}"
                )
            });
        }
        let clusters = cluster::run(offset, len, g.cluster_bits);
        if clusters.end > self.behind() {
            self.behind.fetch_max(clusters.end.get(), Ordering::Relaxed);
        }
        for cluster in cluster::each(clusters) {
            if !self.sheet.refer(cluster) {
                out.of_window(&|| {
                    format!(
                        "ERROR: overflow cluster offset={:#x}\nUse qemu-img amend to increase the refcount entry \
                         width or qemu-img convert to create a clean copy if the image cannot be opened for writing",
                        cluster.offset(g.cluster_bits)
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Counts an L1 table of `size` entries, and all below it. `active`: the disk's, not a snapshot's.
    pub fn l1(&self, offset: FileOffset, size: u64, active: bool, out: &mut Out<'_>) -> Result<()> {
        self.refer(offset, size.saturating_mul(L1_ENTRY), out)?;
        self.below(offset, size, active, &|_| true, out)
    }

    /// Counts what is below those entries of an L1 table whose numbers are `wanted`.
    pub fn below(
        &self,
        offset: FileOffset,
        size: u64,
        active: bool,
        wanted: &dyn Fn(u64) -> bool,
        out: &mut Out<'_>,
    ) -> Result<()> {
        if size > 0 && offset.saturating_add(size.saturating_mul(L1_ENTRY)) > FILE_OFFSET_MAX {
            out.corruption(&|| String::from("ERROR: I/O error in check_refcounts_l1"))?;
            // Who says nothing goes on, so that it is said the next time.
            return if out.findings.is_some() { Err(Error::malformed("Input/output error")) } else { Ok(()) };
        }
        numbers(self.machine.source(), self.device, offset, size, &mut |first, entries| {
            let numbered = (first..).zip(entries).filter(|(number, entry)| **entry != 0 && wanted(*number));
            let entries: Vec<u64> = numbered.map(|(_, entry)| *entry).collect();
            if out.findings.is_some() { self.tables(&entries, active, out) } else { self.spread(&entries, active, out) }
        })
    }

    /// The tables of these L1 entries, with all workers.
    fn spread(&self, entries: &[u64], active: bool, out: &mut Out<'_>) -> Result<()> {
        let jobs: Vec<Job<'_>> = entries.chunks(self.tables_at_once()).map(Job).collect();
        let next = AtomicUsize::new(0);
        let all = Mutex::new((Tally::default(), Ok(())));
        let later = out.later;
        let work = |_| {
            let mut own = Out { tally: Tally::default(), findings: None, later, mend: None };
            let mut result = Ok(());
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| result.is_ok()) {
                result = self.tables(job.0, active, &mut own);
            }
            let mut all = all.lock();
            all.0.add(own.tally);
            if result.is_err() {
                all.1 = result;
            }
        };
        if jobs.len() > 1 {
            self.machine.broadcast(&work);
        } else {
            work(0);
        }
        let (tally, result) = all.into_inner();
        out.tally.add(tally);
        result
    }

    fn tables_at_once(&self) -> usize {
        (PIECE >> self.geometry.cluster_bits).max(1)
    }

    /// The tables of these L1 entries, one after the other.
    fn tables(&self, entries: &[u64], active: bool, out: &mut Out<'_>) -> Result<()> {
        let g = &self.geometry;
        let size = g.cluster_size() as usize;
        let mut bytes = alloc::vec![0; entries.len().min(self.tables_at_once()).saturating_mul(size).min(PIECE)];
        for group in entries.chunks(self.tables_at_once()) {
            let whole = size <= PIECE;
            if whole {
                let mut reads: Vec<Read<'_>> = bytes
                    .chunks_exact_mut(size)
                    .zip(group)
                    .map(|(buf, e)| Read { device: self.device, offset: table_of(*e), buf })
                    .collect();
                self.machine.read_many(&mut reads)?;
            }
            for (index, entry) in group.iter().enumerate() {
                let offset = table_of(*entry);
                self.l1_entry(*entry, active, out)?;
                let mut follows = FileOffset::ZERO;
                if whole {
                    let from = index.saturating_mul(size);
                    let table = bytes.get(from..from.saturating_add(size)).unwrap_or_default();
                    self.entries(table, (offset, 0), active, &mut follows, out)?;
                    continue;
                }
                for part in (0..size).step_by(PIECE) {
                    let at = offset.saturating_add(part as u64);
                    self.machine.read(self.device, at, &mut bytes)?;
                    self.entries(&bytes, (at, part >> g.entry_bits), active, &mut follows, out)?;
                }
            }
        }
        Ok(())
    }

    fn l1_entry(&self, entry: u64, active: bool, out: &mut Out<'_>) -> Result<()> {
        let g = &self.geometry;
        if entry & L1_RESERVED != 0 {
            out.corruption(&|| format!("ERROR found L1 entry with reserved bits set: {entry:x}"))?;
        }
        let offset = table_of(entry);
        self.refer(offset, g.cluster_size(), out)?;
        if !offset.is_multiple_of(g.cluster_size()) {
            out.corruption(&|| {
                format!("ERROR l2_offset={offset:x}: Table is not cluster aligned; L1 entry corrupted")
            })?;
        }
        if active && offset != FileOffset::ZERO {
            self.copied_flag(offset, entry, out);
        }
        Ok(())
    }

    fn copied_flag(&self, offset: FileOffset, entry: u64, out: &mut Out<'_>) {
        let single = self.sheet.is_single(ClusterNumber::of(offset, self.geometry.cluster_bits));
        if single.is_some_and(|single| single != (entry & OFLAG_COPIED != 0)) {
            out.tally.copied = out.tally.copied.saturating_add(1);
        }
    }

    /// Part of an L2 table: where it is in the file, and the number of its first entry. `follows`: where the next cluster would be if it follows the
    /// one before; 0: there was none yet.
    fn entries(
        &self,
        table: &[u8],
        (at, first): (FileOffset, usize),
        active: bool,
        follows: &mut FileOffset,
        out: &mut Out<'_>,
    ) -> Result<()> {
        const GROUP: usize = 64;
        let per_group = GROUP >> self.geometry.entry_bits;
        for (number, group) in table.as_chunks::<GROUP>().0.iter().enumerate() {
            // Most tables are mostly empty.
            if instar_image::reader::is_zero(group) {
                continue;
            }
            let index = first.saturating_add(number.saturating_mul(per_group));
            let words = group.as_chunks::<8>().0;
            let slot = |entry, bitmap, i: usize| {
                let skip = (number.saturating_mul(GROUP) + (i << self.geometry.entry_bits)) as u64;
                Slot { entry, bitmap, index: index.saturating_add(i), at: at.saturating_add(skip) }
            };
            if self.geometry.entry_bits == 4 {
                for (i, pair) in words.as_chunks::<2>().0.iter().enumerate() {
                    let [entry, bitmap] = pair.map(u64::from_be_bytes);
                    self.entry(&slot(entry, bitmap, i), active, follows, out)?;
                }
            } else {
                for (i, word) in words.iter().enumerate() {
                    self.entry(&slot(u64::from_be_bytes(*word), 0, i), active, follows, out)?;
                }
            }
        }
        Ok(())
    }

    fn entry(&self, slot: &Slot, active: bool, follows: &mut FileOffset, out: &mut Out<'_>) -> Result<()> {
        let g = &self.geometry;
        let Slot { entry, bitmap, index, at } = *slot;
        let counted = active && !out.later;
        if entry & OFLAG_COMPRESSED != 0 {
            return self.compressed(entry, bitmap, index, counted, out);
        }
        if entry & L2_RESERVED != 0 {
            out.corruption(&|| format!("ERROR found l2 entry with reserved bits set: {entry:x}"))?;
        }
        let offset = host_of(entry);
        let subclusters = g.entry_bits == 4;
        if !is_plain(g, entry) {
            if subclusters && bitmap & u64::from(u32::MAX) != 0 {
                out.corruption(&|| "ERROR: Unallocated cluster has non-zero subcluster allocation map".into())?;
            }
            return Ok(());
        }
        if (bitmap >> 32) & bitmap & u64::from(u32::MAX) != 0 {
            out.corruption(&|| {
                format!("ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation bitmap")
            })?;
        }
        if !offset.is_multiple_of(g.cluster_size()) {
            let holds = if subclusters { bitmap & u64::from(u32::MAX) != 0 } else { entry & OFLAG_ZERO == 0 };
            let what = if holds { "Data" } else { "Preallocated" };
            let text = || format!("offset={offset:x}: {what} cluster is not properly aligned; L2 entry corrupted.");
            if holds {
                out.corruption(&|| format!("ERROR {}", text()))?;
            } else if out.wrong_entry(at, if subclusters { 0 } else { OFLAG_ZERO }, &text)? {
                // It holds nothing: it reads as zeroes without a cluster, too.
                return Ok(());
            }
        }
        if counted {
            out.tally.allocated = out.tally.allocated.saturating_add(1);
            if *follows != FileOffset::ZERO && offset != *follows {
                out.tally.fragmented = out.tally.fragmented.saturating_add(1);
            }
            *follows = offset.saturating_add(g.cluster_size());
        }
        if g.external {
            if active && entry & OFLAG_COPIED == 0 {
                out.tally.copied = out.tally.copied.saturating_add(1);
            }
            return Ok(());
        }
        if active {
            self.copied_flag(offset, entry, out);
        }
        self.refer(offset, g.cluster_size(), out)
    }

    fn compressed(&self, entry: u64, bitmap: u64, index: usize, counted: bool, out: &mut Out<'_>) -> Result<()> {
        let g = &self.geometry;
        let (offset, len) = compressed_range(g, entry);
        if entry & OFLAG_COPIED != 0 {
            out.corruption(&|| {
                format!("ERROR: coffset={offset:#x}: copied flag must never be set for compressed clusters")
            })?;
        }
        let shown = entry & !OFLAG_COPIED;
        if g.external {
            return out.corruption(&|| format!("ERROR compressed cluster {index} with data file, entry={shown:#x}"));
        }
        if bitmap != 0 {
            return out.corruption(&|| {
                format!("ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, entry={shown:#x}")
            });
        }
        self.refer(offset, len, out)?;
        if counted {
            // A reader fetches the sectors that two of them share twice.
            for count in [&mut out.tally.allocated, &mut out.tally.compressed, &mut out.tally.fragmented] {
                *count = count.saturating_add(1);
            }
        }
        Ok(())
    }
}

/// The entry (of no compressed cluster) has a cluster.
pub const fn is_plain(g: &Geometry, entry: u64) -> bool {
    if entry & L2_OFFSET_MASK != 0 {
        return true;
    }
    // In a data file, offset 0 is a place like any other.
    let zero = entry & OFLAG_ZERO != 0 && g.entry_bits == 3;
    g.external && entry & OFLAG_COPIED != 0 && !zero
}

/// Whoever needs both halves of a context one after the other.
pub fn quiet(later: bool) -> Out<'static> {
    Out { tally: Tally::default(), findings: None, later, mend: None }
}

/// With a listener.
pub fn loud<'c>(cx: &'c mut CheckContext<'_>, later: bool) -> Out<'c> {
    Out { tally: Tally::default(), findings: Some(&mut *cx.findings), later, mend: None }
}
