//! Many counts that change together: those of a window's clusters, by what its sheet says.

use instar_image::{Error, Result};

use super::counts::Counts;
use super::sheet::Sheet;
use crate::cluster::{self, ClusterNumber};

/// Bytes of blocks that are changed at once, and how many blocks that is at most: what waits is looked through for each.
const AT_ONCE: (u64, u64) = (4 << 20, 1024);

/// Which way counts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    /// What is referred to is referred to once more.
    Up,
    /// And once less.
    Down,
}

impl Shift {
    /// A count with so many references more or less; `None`: there can be no such count.
    pub const fn of(self, count: u64, references: u64, max: u64) -> Option<u64> {
        match self {
            Self::Up => match count.checked_add(references) {
                // What nothing counted is free to others.
                Some(sum) if sum <= max && count > 0 => Some(sum),
                _ => None,
            },
            Self::Down => count.checked_sub(references),
        }
    }
}

impl Counts<'_> {
    /// Shifts the counts of the sheet's clusters from `from` on, as many as may wait at once; returns where it stopped.
    pub fn shift(&mut self, sheet: &Sheet, shift: Shift, from: ClusterNumber) -> Result<ClusterNumber> {
        let (geometry, max) = (self.geometry(), self.max());
        let most = (AT_ONCE.0 >> geometry.cluster_bits).clamp(1, AT_ONCE.1);
        let mut changed = 0;
        let mut at = from;
        while at < sheet.range.end && changed < most {
            let (number, index) = geometry.place(at);
            let end = geometry.first(number + 1).min(sheet.range.end);
            let referred = |cluster: &ClusterNumber| sheet.references(*cluster).unwrap_or(0);
            let Some(first) = sheet.noted(at..end).find(|cluster| referred(cluster) > 0) else {
                at = end;
                continue;
            };
            let skipped = (first - at) as usize;
            let mut freed = None;
            let block = self.block(number)?.ok_or_else(|| impossible(first))?;
            for (cluster, index) in cluster::each(first..end).zip(index.saturating_add(skipped)..) {
                let references = referred(&cluster);
                if references == 0 {
                    continue;
                }
                let count = shift.of(geometry.get(&block.bytes, index), references, max);
                let count = count.ok_or_else(|| impossible(cluster))?;
                geometry.set(&mut block.bytes, index, count);
                if count == 0 {
                    freed.get_or_insert_with(alloc::vec::Vec::new).push(cluster);
                }
            }
            block.change();
            for cluster in freed.into_iter().flatten() {
                self.free(cluster, 1);
                self.thinned.insert(number);
            }
            (at, changed) = (end, changed + 1);
        }
        Ok(at)
    }
}

fn impossible(cluster: ClusterNumber) -> Error {
    Error::corrupt(alloc::format!("the image is corrupt: the refcount of cluster {cluster} is wrong"))
        .with_hint("qemu-img check -r all may repair it")
}
