//! What is counted of one window of the file's clusters: how often each is referred to, and what the image's own
//! refcounts say.
//!
//! Both take a byte a cluster; what does not fit into one is kept beside. A file with more clusters than a window is
//! checked in several passes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use spin::Mutex;

use super::Geometry;
use crate::cluster::{self, ClusterNumber};

/// Clusters of a window: two bytes each fit into a guest's memory.
pub const WINDOW: u64 = 18 << 20;
/// Clusters of which is known together whether anything was noted: a sparse file has long stretches of which nothing was.
const GROUP: u64 = 4096;
/// This many or more.
pub const MANY: u8 = u8::MAX;

/// One window.
pub struct Sheet {
    /// The clusters of the window.
    pub range: Range<ClusterNumber>,
    /// Largest refcount that the image can hold.
    max: u64,
    references: Vec<AtomicU8>,
    /// Where there are [`MANY`] references or more.
    many: Mutex<BTreeMap<ClusterNumber, u64>>,
    stored: Vec<AtomicU8>,
    /// Whether anything was noted of each group.
    noted: Vec<AtomicBool>,
}

/// The windows of all clusters before `end`, each of whole blocks.
pub fn windows(geometry: Geometry, end: ClusterNumber) -> impl Iterator<Item = Range<ClusterNumber>> {
    let whole = WINDOW / geometry.reach() * geometry.reach();
    let starts = (0..end.get().div_ceil(whole)).map(move |number| ClusterNumber::new(number.saturating_mul(whole)));
    starts.map(move |start| start..end.min(start.saturating_add(whole)))
}

fn zeroes(count: usize) -> Vec<AtomicU8> {
    (0..count).map(|_| AtomicU8::new(0)).collect()
}

impl Sheet {
    /// All zeroes.
    pub fn new(range: Range<ClusterNumber>, max: u64) -> Self {
        let count = usize::try_from(range.end.saturating_since(range.start)).unwrap_or_default();
        let noted = (0..count.div_ceil(GROUP as usize)).map(|_| AtomicBool::new(false)).collect();
        Self { range, max, references: zeroes(count), many: Mutex::default(), stored: zeroes(count), noted }
    }

    /// Forgets the references.
    pub fn clear(&self) {
        self.references.iter().for_each(|cell| cell.store(0, Ordering::Relaxed));
        self.many.lock().clear();
    }

    fn index(&self, cluster: ClusterNumber) -> Option<usize> {
        let index = cluster.checked_since(self.range.start).and_then(|i| usize::try_from(i).ok())?;
        (index < self.references.len()).then_some(index)
    }

    fn note(&self, index: usize) {
        if let Some(noted) = self.noted.get(index / GROUP as usize)
            && !noted.load(Ordering::Relaxed)
        {
            noted.store(true, Ordering::Relaxed);
        }
    }

    /// Those of a range of the window's clusters, in order, of which anything may have been noted: of all others both counts
    /// are zero.
    pub fn noted(&self, clusters: Range<ClusterNumber>) -> impl Iterator<Item = ClusterNumber> + '_ {
        let start = self.range.start;
        let groups =
            clusters.start.saturating_since(start) / GROUP..clusters.end.saturating_since(start).div_ceil(GROUP);
        let is_noted = |group: &u64| {
            let noted = usize::try_from(*group).ok().and_then(|group| self.noted.get(group));
            noted.is_some_and(|noted| noted.load(Ordering::Relaxed))
        };
        groups.filter(is_noted).flat_map(move |group| {
            let first = start.saturating_add(group.saturating_mul(GROUP));
            cluster::each(first.max(clusters.start)..first.saturating_add(GROUP).min(clusters.end))
        })
    }

    /// Counts one more reference. False: an image cannot hold so many, and it was not counted. Clusters of other
    /// windows are none of ours.
    pub fn refer(&self, cluster: ClusterNumber) -> bool {
        let Some(index) = self.index(cluster) else { return true };
        let Some(cell) = self.references.get(index) else { return true };
        self.note(index);
        let fits = |n: u8| (n != MANY && u64::from(n) != self.max).then(|| n.saturating_add(1));
        match cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => true,
            Err(MANY) => {
                let mut many = self.many.lock();
                let count = many.entry(cluster).or_insert_with(|| u64::from(MANY));
                let fits = *count < self.max;
                *count = count.saturating_add(u64::from(fits));
                fits
            }
            Err(_) => false,
        }
    }

    /// How often the cluster is referred to; `None`: it is not of this window.
    pub fn references(&self, cluster: ClusterNumber) -> Option<u64> {
        let count = self.references.get(self.index(cluster)?)?.load(Ordering::Relaxed);
        let many = || self.many.lock().get(&cluster).copied().unwrap_or_else(|| u64::from(MANY));
        Some(if count == MANY { many() } else { u64::from(count) })
    }

    /// Notes what the image's own refcount is.
    pub fn store(&self, cluster: ClusterNumber, count: u64) {
        let Some(index) = self.index(cluster) else { return };
        if let Some(cell) = self.stored.get(index) {
            self.note(index);
            cell.store(u8::try_from(count).unwrap_or(MANY), Ordering::Relaxed);
        }
    }

    /// Whether the image's own refcount is one; `None`: the cluster is not of this window.
    pub fn is_single(&self, cluster: ClusterNumber) -> Option<bool> {
        Some(self.stored.get(self.index(cluster)?)?.load(Ordering::Relaxed) == 1)
    }

    /// Both counts of a cluster, [`MANY`] where there are that many or more: the image's own, and the references.
    pub fn both(&self, cluster: ClusterNumber) -> (u8, u8) {
        let of = |cells: &[AtomicU8]| self.index(cluster).and_then(|i| cells.get(i)).map(|c| c.load(Ordering::Relaxed));
        (of(&self.stored).unwrap_or(0), of(&self.references).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(range: Range<u64>, max: u64) -> Sheet {
        Sheet::new(number(range.start)..number(range.end), max)
    }

    fn number(count: u64) -> ClusterNumber {
        ClusterNumber::new(count)
    }

    #[test]
    fn counts_beyond_a_byte() {
        let sheet = new(10..20, 65535);
        assert!((0..70_000).map(|_| sheet.refer(number(12))).filter(|fits| *fits).count() == 65535);
        assert_eq!(
            (sheet.references(number(12)), sheet.references(number(11)), sheet.references(number(9))),
            (Some(65535), Some(0), None)
        );
        sheet.clear();
        assert_eq!(sheet.references(number(12)), Some(0));
    }

    #[test]
    fn what_was_noted_is_found_and_long_stretches_of_nothing_are_not_looked_at() {
        let sheet = new(100..20_000, 65535);
        assert_eq!(sheet.noted(number(100)..number(20_000)).count(), 0);
        assert!(sheet.refer(number(100)) && sheet.refer(number(4196 + 7)));
        sheet.store(number(19_999), 1);
        let found = |range: Range<u64>| -> Vec<u64> {
            let some = |cluster: &ClusterNumber| sheet.both(*cluster) != (0, 0);
            sheet.noted(number(range.start)..number(range.end)).filter(some).map(ClusterNumber::get).collect()
        };
        assert_eq!(found(100..20_000), [100, 4203, 19_999]);
        assert_eq!(found(101..19_999), [4203]);
        assert_eq!(sheet.noted(number(101)..number(20_000)).count(), 4095 + 4096 + (20_000 - 100 - 4 * 4096));
    }

    #[test]
    fn narrow_counts_are_full_early() {
        let sheet = new(0..2, 3);
        let fits: Vec<bool> = (0..5).map(|_| sheet.refer(number(1))).collect();
        assert_eq!(fits, [true, true, true, false, false]);
        let one = new(0..2, 1);
        assert!(one.refer(number(0)) && !one.refer(number(0)) && one.refer(number(7)));
    }

    #[test]
    fn exactly_a_byte_is_known() {
        let sheet = new(0..1, 255);
        assert_eq!((0..300).filter(|_| sheet.refer(number(0))).count(), 255);
        assert_eq!(sheet.references(number(0)), Some(255));
    }
}
