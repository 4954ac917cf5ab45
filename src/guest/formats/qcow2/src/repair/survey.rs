//! What refers to the clusters, and which refcount blocks there are to say so.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::check::First;
use instar_image::{CheckContext, Error, FileOffset, Result};

use super::Repair;
use crate::check::Walk;
use crate::check::tables::{loud, quiet};
use crate::cluster::{self, ClusterNumber};
use crate::layout::{REFCOUNT_TABLE_BYTES_MAX, block_of};
use crate::refcount::sheet::{MANY, Sheet};
use crate::refcount::stored::Stored;
use crate::refcount::table::ENTRY;

/// What was found.
pub struct Survey {
    /// The first cluster behind the file, and behind all that is referred to.
    pub reached: ClusterNumber,
    /// Numbers of blocks that are needed and not there.
    pub missing: BTreeSet<u64>,
    /// Something else lies where the table is.
    pub table_moves: bool,
}

impl Repair<'_, '_> {
    /// Counts everything once. Blocks that are of no use are gone from the table then.
    pub fn survey(&self, stored: &mut Stored<'_>) -> Result<Survey> {
        let (header, behind) = (&self.image.header, self.behind.saturating_add(1));
        let numbers = stored.table.geometry.blocks_of(ClusterNumber::FIRST..behind).end;
        if numbers > REFCOUNT_TABLE_BYTES_MAX / ENTRY {
            return Err(Error::limit("File too large"));
        }
        for (number, entry) in (0..).zip(&mut stored.table.entries) {
            let offset = block_of(*entry);
            let is_place = offset.is_multiple_of(header.cluster_size())
                && ClusterNumber::of(offset, header.cluster_bits) < self.behind;
            if *entry != offset.get() || !is_place || number >= numbers {
                *entry = 0;
            }
        }
        let (mut reached, mut table_moves) = (self.behind, false);
        let mut shared: Vec<usize> = Vec::new();
        let mut needed = vec![false; usize::try_from(numbers).unwrap_or_default()];
        for range in self.windows(behind, stored) {
            // Counts too narrow for it must not hide that something has two uses.
            let max = stored.table.geometry.max();
            let sheet = Sheet::new(range.clone(), if self.checked { max.max(u64::from(MANY)) } else { max });
            let found = self.count(&sheet, stored, |number| {
                shared.push(number);
                Ok(())
            })?;
            reached = reached.max(found);
            let (place, len) = stored.table.place;
            let own = cluster::run(place, len, header.cluster_bits);
            table_moves |= cluster::each(own).any(|cluster| sheet.references(cluster).is_some_and(|count| count != 1));
            for number in stored.table.geometry.blocks_of(range) {
                let clusters = stored.table.geometry.first(number)..stored.table.geometry.first(number + 1);
                let used = || sheet.noted(clusters.clone()).any(|c| sheet.references(c).is_some_and(|count| count > 0));
                if let Some(needed) = needed.get_mut(usize::try_from(number).unwrap_or(usize::MAX)) {
                    *needed = used();
                }
            }
        }
        for number in shared {
            if let Some(entry) = stored.table.entries.get_mut(number) {
                *entry = 0;
            }
        }
        let wanted = (0..).zip(needed).filter(|(_, needed)| *needed).map(|(number, _)| number);
        let missing = wanted.filter(|number| stored.table.offset(*number) == FileOffset::ZERO).collect();
        Ok(Survey { reached, missing, table_moves })
    }

    /// Counts what refers to the clusters of `sheet`; `shared` is called for each block of them whose place is something
    /// else's, too, and which is not counted. Returns the cluster behind all that is referred to.
    pub fn count(
        &self,
        sheet: &Sheet,
        stored: &Stored<'_>,
        mut shared: impl FnMut(usize) -> Result<()>,
    ) -> Result<ClusterNumber> {
        let (image, machine, bits) = (self.image, self.machine, self.image.header.cluster_bits);
        let walk = Walk { image, device: image.device, stored, file_end: self.file_end, behind: self.behind };
        let count = walk.counting(sheet, machine);
        let mut out = quiet(false);
        walk.count_but_blocks(&count, &mut out)?;
        if out.tally.corruptions > 0 && !self.checked {
            let mut first = First::default();
            sheet.clear();
            let mut cx = CheckContext { machine, findings: &mut first };
            walk.count_but_blocks(&walk.counting(sheet, machine), &mut loud(&mut cx, false))?;
            return Err(Error::corrupt(first.0));
        }
        for (number, entry) in stored.table.entries.iter().enumerate().filter(|(_, entry)| **entry != 0) {
            let cluster = ClusterNumber::of(block_of(*entry), bits);
            match sheet.references(cluster) {
                Some(0) => {
                    sheet.refer(cluster);
                }
                Some(_) => shared(number)?,
                None => {}
            }
        }
        Ok(count.behind())
    }
}
