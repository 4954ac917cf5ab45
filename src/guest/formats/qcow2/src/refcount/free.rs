//! Giving up what is not needed: free clusters to the host, blocks that count nothing, a table that can be nearer to the
//! file's beginning, and the file's end.

use alloc::vec::Vec;

use instar_image::{FileOffset, Result};

use super::counts::{Counts, add_run, widen};
use super::table::ENTRY;
use crate::cluster::{self, ClusterNumber};

/// Bytes that file systems give back as one.
const GIVEN_BACK: u64 = 4096;
/// Clusters among which a place near to the file's beginning is looked for.
const LOOKED_AT: u64 = 1 << 16;

impl Counts<'_> {
    /// The runs of clusters that lost their last reference since, and that were not handed out again; with free ones beside
    /// them, up to what a file system gives back as one.
    pub fn take_freed(&mut self) -> Result<Vec<(ClusterNumber, u64)>> {
        let mut freed = core::mem::take(&mut self.freed);
        freed.sort_unstable();
        let unit = (GIVEN_BACK >> self.geometry().cluster_bits).max(1);
        let mut runs: Vec<(ClusterNumber, u64)> = Vec::new();
        let mut at = ClusterNumber::FIRST;
        for (first, count) in freed {
            let start = ClusterNumber::new(first.get() / unit * unit).max(at);
            let end = ClusterNumber::new(first.saturating_add(count).get().next_multiple_of(unit));
            for cluster in cluster::each(start..end) {
                if self.get(cluster)? == 0 {
                    add_run(&mut runs, cluster, 1);
                }
            }
            at = at.max(end);
        }
        Ok(runs)
    }

    /// Takes `count` adjacent clusters that are free and lie before cluster `below`, if they are soon found.
    pub fn take_low(&mut self, count: u64, below: ClusterNumber) -> Result<Option<ClusterNumber>> {
        let below = below.min(ClusterNumber::new(LOOKED_AT));
        let (mut first, mut end) = (ClusterNumber::FIRST, ClusterNumber::FIRST);
        while end - first < count && end < below {
            let is_free = self.get(end)? == 0 && !self.taken.iter().any(|range| range.contains(&end));
            end += 1;
            if !is_free {
                first = end;
            }
        }
        if end - first < count || !self.has_block(first, count) {
            return Ok(None);
        }
        self.set_run(first, count, 1)?;
        Ok(Some(first))
    }

    /// Whether there are blocks for those clusters.
    fn has_block(&self, first: ClusterNumber, count: u64) -> bool {
        let mut numbers = self.geometry().blocks_of(first..first + count);
        numbers.all(|number| self.table.offset(number) != FileOffset::ZERO)
    }

    /// Gives the table a place nearer to the file's beginning, as short as it can be; false: there is none. As if it had
    /// outgrown its place: to be written and published.
    pub fn sink_table(&mut self) -> Result<bool> {
        let used = self.table.entries.iter().rposition(|offset| *offset != 0).map_or(0, |last| last + 1);
        let (clusters, bits) = (self.table.clusters(used).max(1), self.geometry().cluster_bits);
        let Some(first) = self.take_low(clusters, ClusterNumber::of(self.table.place.0, bits))? else {
            return Ok(false);
        };
        self.table.entries.resize(((clusters << bits) / ENTRY) as usize, 0);
        (self.outgrown, self.new_place) = (true, Some(first.offset(bits)));
        Ok(true)
    }

    /// Takes those blocks out of the table that have come to count nothing but themselves; false: there were none.
    /// [`Counts::publish`] makes that known; then they are to be given up, like all that was released.
    pub fn drop_empty_blocks(&mut self) -> Result<bool> {
        let mut any = false;
        for number in core::mem::take(&mut self.thinned) {
            let geometry = self.geometry();
            let cluster = ClusterNumber::of(self.table.offset(number), geometry.cluster_bits);
            let Some(block) = self.block(number)? else { continue };
            let (by, index) = geometry.place(cluster);
            let own = (by == number).then_some(index);
            let others = (0..geometry.reach() as usize).filter(|i| Some(*i) != own);
            if others.into_iter().any(|i| geometry.get(&block.bytes, i) != 0) {
                continue;
            }
            self.blocks.remove(number);
            self.table.set(number, FileOffset::ZERO);
            let index = usize::try_from(number).unwrap_or(usize::MAX - 1);
            widen(&mut self.changed, index..index + 1);
            match own {
                Some(_) => self.free(cluster, 1),
                None => self.release(cluster, 1),
            }
            any = true;
        }
        Ok(any)
    }

    /// Where the file, which ends at `file_end`, may end: behind the last cluster that is in use.
    pub fn end(&mut self, file_end: FileOffset) -> Result<FileOffset> {
        let geometry = self.geometry();
        // What the table does not reach counts nothing: a sparse file may be enormous.
        let used = self.table.entries.iter().rposition(|offset| *offset != 0).map_or(0, |last| last as u64 + 1);
        let mut end = ClusterNumber::behind(file_end, geometry.cluster_bits).min(geometry.first(used));
        while end > ClusterNumber::FIRST {
            let (number, _) = geometry.place(end - 1);
            let start = geometry.first(number);
            let Some(block) = self.block(number)? else {
                end = start;
                continue;
            };
            match cluster::each(start..end).rev().find(|c| geometry.get(&block.bytes, (*c - start) as usize) != 0) {
                Some(last) => return Ok(file_end.min((last + 1).offset(geometry.cluster_bits))),
                None => end = start,
            }
        }
        Ok(file_end)
    }
}
