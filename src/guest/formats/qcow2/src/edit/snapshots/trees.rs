//! An L1 table and all below it: what it refers to is referred to once more, or once less.
//!
//! References are counted window by window, as a check counts them, so memory does not grow with the image. Before anything is
//! touched, [`Qcow2Editor::weigh`] sees that every count can change as it is to; [`Qcow2Editor::shift`] changes them.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use instar_image::table::Span;
use instar_image::{Error, Kind, Result};
use spin::Mutex;

use super::reach::Reach;
use super::{EFBIG, EINVAL};
use crate::check::CLUSTERS_MAX;
use crate::check::tables::{Count, quiet};
use crate::cluster::ClusterNumber;
use crate::edit::{Qcow2Editor, State};
use crate::flags::Flags;
use crate::layout::{L1_ENTRY, OFLAG_COPIED};
use crate::refcount::Geometry;
use crate::refcount::sheet::{MANY, Sheet, windows};
use crate::refcount::shift::Shift;
use crate::refcount::stored::Stored;

/// Clusters of a window that is kept from the weighing on; more are counted again.
const KEPT_MAX: u64 = 4 << 20;
/// Clusters that a worker compares at once.
const STEP: u64 = 1 << 16;
/// Bytes of counts and of runs that may wait before free clusters go to the host.
const WAITING_MAX: usize = 2 << 20;

/// An L1 table, and all below it.
#[derive(Clone, Copy)]
pub struct Tree {
    /// The table.
    pub l1: Span,
    /// The clusters that it is in count as well.
    pub whole: bool,
}

/// A tree whose counts can change.
pub struct Weighed {
    tree: Tree,
    shift: Shift,
    windows: Vec<Range<ClusterNumber>>,
    reach: Reach,
    /// The only window, if it is small.
    kept: Option<Sheet>,
}

impl<'a> Qcow2Editor<'a> {
    /// Sees that all counts can change so.
    pub(super) fn weigh(&self, tree: Tree, shift: Shift) -> Result<Weighed> {
        let stored = Stored::open(self.machine, self.device, &self.header)?;
        let (windows, reach) = self.windows(tree.l1, stored.table.geometry)?;
        let mut kept = None;
        for (number, range) in windows.iter().enumerate() {
            let wanted = |entry| reach.has(entry, number);
            let sheet = self.count(tree, range.clone(), &wanted, stored.table.geometry.max())?;
            stored.load(&sheet)?;
            self.compare(&sheet, &stored, shift)?;
            kept = (windows.len() == 1 && range.end - range.start <= KEPT_MAX).then_some(sheet);
        }
        Ok(Weighed { tree, shift, windows, reach, kept })
    }

    /// The windows of the file's clusters, and which of them what is below an L1 table lies in.
    fn windows(&self, l1: Span, geometry: Geometry) -> Result<(Vec<Range<ClusterNumber>>, Reach)> {
        let behind = ClusterNumber::behind(self.machine.stat(self.device)?.end(), self.header.cluster_bits);
        if behind.get() > CLUSTERS_MAX {
            return Err(Error::new(Kind::Io(EFBIG), "File too large"));
        }
        let windows: Vec<Range<ClusterNumber>> = windows(geometry, behind).collect();
        let reach = match &windows[..] {
            [first, _, ..] => self.reach_of(l1, first.end - first.start)?,
            _ => Reach::everywhere(),
        };
        Ok((windows, reach))
    }

    /// How often the tree refers to the window's clusters. `wanted`: entries of the L1 table below which any of them may be.
    fn count(&self, tree: Tree, range: Range<ClusterNumber>, wanted: &dyn Fn(u64) -> bool, max: u64) -> Result<Sheet> {
        let file_end = self.machine.stat(self.device)?.end();
        let sheet = Sheet::new(range, max);
        let (machine, device, geometry) = (self.machine, self.device, self.geometry);
        let behind = AtomicU64::new(ClusterNumber::behind(file_end, self.header.cluster_bits).get());
        let count = Count { machine, device, geometry, file_end, behind, sheet: &sheet };
        let (mut out, Span { offset, count: entries }) = (quiet(false), tree.l1);
        if tree.whole {
            count.refer(offset, entries.saturating_mul(L1_ENTRY), &mut out)?;
        }
        count.below(offset, entries, false, wanted, &mut out)?;
        if out.tally.corruptions > 0 {
            let error = Error::corrupt("the image is corrupt: its tables refer to what they cannot");
            return Err(error.with_hint("qemu-img check tells of all that is wrong"));
        }
        Ok(sheet)
    }

    /// Whether the counts of the window's clusters can change, with all workers.
    fn compare(&self, sheet: &Sheet, stored: &Stored<'_>, shift: Shift) -> Result<()> {
        let max = stored.table.geometry.max();
        let (next, failed) = (AtomicU64::new(0), Mutex::new(Ok(())));
        let one = |cluster: ClusterNumber| -> Result<()> {
            let (count, references) = match sheet.both(cluster) {
                (_, 0) => return Ok(()),
                (count, references) if count != MANY && references != MANY => (u64::from(count), u64::from(references)),
                _ => (stored.get(cluster)?.unwrap_or(0), sheet.references(cluster).unwrap_or(0)),
            };
            if shift.of(count, references, max).is_some() {
                return Ok(());
            }
            if shift == Shift::Up && count >= references {
                let error = Error::new(Kind::Io(EINVAL), "Invalid argument");
                let bits = 1u64 << stored.table.geometry.order;
                return Err(error.with_hint(alloc::format!(
                    "refcounts of {bits} bits have no room for another snapshot: qemu-img convert makes a copy with wider ones"
                )));
            }
            let text = alloc::format!(
                "the image is corrupt: the refcount of cluster {cluster} is {count}, but there are {references} references"
            );
            Err(Error::corrupt(text).with_hint("qemu-img check -r all may repair it"))
        };
        self.machine.broadcast(&|_| {
            loop {
                let first = sheet.range.start.saturating_add(next.fetch_add(STEP, Ordering::Relaxed));
                let end = first.saturating_add(STEP).min(sheet.range.end);
                if first >= end || failed.lock().is_err() {
                    break;
                }
                if let Err(error) = sheet.noted(first..end).try_for_each(one) {
                    *failed.lock() = Err(error);
                }
            }
        });
        failed.into_inner()
    }

    /// Changes the counts, and then that is stable. What loses its last reference is given to the host.
    pub(super) fn shift(&self, state: &mut State<'a>, mut weighed: Weighed) -> Result<()> {
        let mut steps = Vec::new();
        let (tree, reach) = (weighed.tree, weighed.reach);
        for (number, range) in weighed.windows.into_iter().enumerate() {
            let anew = || self.count(tree, range.clone(), &|entry| reach.has(entry, number), state.counts.max());
            let sheet = weighed.kept.take().map_or_else(anew, Ok)?;
            let mut at = range.start;
            while at < range.end {
                at = state.counts.shift(&sheet, weighed.shift, at)?;
                state.counts.write(&mut steps)?;
                instar_image::sealed::submit(self.machine, steps.drain(..), None)?;
                if state.counts.waiting() > WAITING_MAX {
                    self.barrier()?;
                    self.discard(state)?;
                }
            }
        }
        self.barrier()?;
        self.discard(state)
    }

    /// Takes the copied flags away from all below an L1 table, and then that is stable.
    pub(super) fn clear_flags(&self, l1: Span) -> Result<()> {
        self.flags(&|_| Some(false)).set_below(l1, &|_| true)?;
        self.barrier()
    }

    fn flags<'f>(&'f self, is_single: crate::flags::IsSingle<'f>) -> Flags<'f> {
        Flags { machine: self.machine, device: self.device, geometry: &self.geometry, is_single }
    }

    /// Sets the disk's copied flags by the counts, and then that is stable.
    pub(in crate::edit) fn set_flags(&self, state: &mut State<'a>, l1: Span) -> Result<()> {
        let stored = Stored::open(self.machine, self.device, &self.header)?;
        let (windows, reach) = self.windows(l1, stored.table.geometry)?;
        for (number, range) in windows.into_iter().enumerate() {
            let sheet = Sheet::new(range, stored.table.geometry.max());
            stored.load(&sheet)?;
            let is_single = |cluster| sheet.is_single(cluster);
            let flags = self.flags(&is_single);
            flags.set_below(l1, &|entry| reach.has(entry, number))?;
            state.tables.correct(|entry| flags.right_in_l1(entry));
        }
        self.write_l1(state)
    }

    /// The same of the L1 table alone: none of its entries has one.
    pub(super) fn clear_flags_of_l1(&self, state: &mut State<'a>) -> Result<()> {
        state.tables.correct(|entry| entry & !OFLAG_COPIED);
        self.write_l1(state)
    }

    fn write_l1(&self, state: &mut State<'a>) -> Result<()> {
        let mut steps = Vec::new();
        state.tables.write_references(&mut steps);
        instar_image::sealed::submit(self.machine, steps, None)?;
        self.barrier()
    }
}
