//! Reading disks of clusters with two levels of tables.

use spin::Mutex;

use super::{Levels, NONE};
use crate::table::{Span, TableCache};
use crate::{Error, Extent, FileOffset, Place, Result, Source};

/// What a format says of its entries beyond what [`Levels`] does.
pub trait Entries {
    /// Fails where no second-level table can be at `offset`.
    fn check_table(&self, _offset: FileOffset) -> Result<()> {
        Ok(())
    }

    /// Where the first byte of the cluster is that a second-level entry is for.
    fn place(&self, entry: u64) -> Result<Place>;
}

/// Finds clusters by their tables, of which one piece each is held.
pub struct LevelReader<'a, const N: usize = 8> {
    levels: Levels,
    tables: Mutex<[TableCache<'a, N>; 2]>,
}

impl<'a, const N: usize> LevelReader<'a, N> {
    /// Nothing is read yet.
    #[must_use]
    pub const fn new(source: &'a dyn Source, levels: Levels) -> Self {
        let tables = [TableCache::new(source, levels.device), TableCache::new(source, levels.device)];
        Self { levels, tables: Mutex::new(tables) }
    }

    /// Entry number `index` of the first-level table `l1`.
    pub(super) fn l1(&self, l1: Span, index: u64) -> Result<Option<u64>> {
        self.entry(0, l1, index)
    }

    /// Entry number `index` of the second-level table at `offset`.
    pub(super) fn l2(&self, offset: FileOffset, index: u64) -> Result<Option<u64>> {
        self.entry(1, Span { offset, count: self.levels.l2_entries }, index)
    }

    fn entry(&self, level: usize, table: Span, index: u64) -> Result<Option<u64>> {
        let mut tables = self.tables.lock();
        let Some(cache) = tables.get_mut(level) else { return Ok(None) };
        Ok(cache.entry(table, index)?.map(|bytes| self.levels.value(bytes)))
    }

    /// These bytes of tables were written.
    pub(super) fn wrote(&self, offset: FileOffset, data: &[u8]) {
        self.tables.lock().iter_mut().for_each(|cache| cache.wrote(offset, data));
    }

    /// See [`crate::Image::extent`]: clusters that follow one another in the file are one, as far as one table goes; only the
    /// first one's place is looked at. A compressed one stands alone.
    pub fn extent(&self, of: &impl Entries, at: u64, max: u64) -> Result<Extent> {
        let Levels { size, cluster, l1, l2_entries, scale, plain, .. } = self.levels;
        let left = size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let [first_level, second_level] = &mut *self.tables.lock();
        let reach = l2_entries.saturating_mul(cluster);
        let (index, skip) = (at / reach, at % cluster);
        // What is wrong with a table costs what the table is for, an entry only its cluster.
        let of_table = |e: Error| e.losing(reach - at % reach);
        let of_cluster = |e: Error| e.losing(cluster - skip);
        let mut tables = first_level.from(l1, index).map_err(of_table)?.iter().map(|entry| self.levels.value(*entry));
        let table = tables.next().unwrap_or(NONE);
        if table == NONE {
            let empty = tables.take_while(|table| *table == NONE).count() as u64 + 1;
            let end = index.saturating_add(empty).saturating_mul(reach);
            return Ok(Extent { at, len: end.saturating_sub(at).min(left), place: Place::Unallocated });
        }
        let offset = self.levels.table(table);
        of.check_table(offset).map_err(of_table)?;
        let first = at % reach / cluster;
        let table = Span { offset, count: l2_entries };
        let mut entries =
            second_level.from(table, first).map_err(of_cluster)?.iter().map(|entry| self.levels.value(*entry));
        let entry = entries.next().unwrap_or(NONE);
        let place = of.place(entry).map_err(of_cluster)?;
        let step = if plain(entry).is_some() { cluster / scale } else { 0 };
        let (mut expected, mut len) = (entry, cluster - skip);
        while len < left && !matches!(place, Place::Compressed(_)) {
            expected = expected.saturating_add(step);
            if entries.next() != Some(expected) {
                break;
            }
            len = len.saturating_add(cluster);
        }
        let whole = Extent { at: at - skip, len: len.saturating_add(skip), place };
        Ok(whole.slice(at, left))
    }
}
