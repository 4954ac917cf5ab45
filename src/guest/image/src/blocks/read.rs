//! Reading disks of blocks.

use spin::Mutex;

use super::Blocks;
use crate::table::TableCache;
use crate::{Error, Extent, FileOffset, Place, Result, Source};

/// Finds blocks by their table, of which one piece is held.
pub struct BlockReader<'a> {
    blocks: Blocks,
    table: Mutex<TableCache<'a, 4>>,
}

impl<'a> BlockReader<'a> {
    /// Nothing is read yet.
    #[must_use]
    pub const fn new(source: &'a dyn Source, blocks: Blocks) -> Self {
        Self { blocks, table: Mutex::new(TableCache::new(source, blocks.device)) }
    }

    /// What entry number `index` says; `None` behind the end of the table.
    pub(super) fn entry(&self, index: u64) -> Result<Option<u32>> {
        let entry = self.table.lock().entry(self.blocks.table, index)?;
        Ok(entry.map(|bytes| self.blocks.value(bytes)))
    }

    /// These bytes of the table were written.
    pub(super) fn wrote(&self, offset: FileOffset, data: &[u8]) {
        self.table.lock().wrote(offset, data);
    }

    /// See [`crate::Image::extent`]: blocks that follow one another in the file are one. Behind the end of the table there
    /// are none.
    pub fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let Blocks { device, size, block, table, .. } = self.blocks;
        let left = size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let skip = at % block;
        let mut cache = self.table.lock();
        let entries = cache.from(table, at / block).map_err(|e| e.losing(block - skip))?;
        let mut places = entries.iter().map(|entry| self.blocks.place(self.blocks.value(*entry)));
        let first = places.next();
        let mut len = if first.is_some() { block - skip } else { left };
        let first = first.flatten();
        let mut expected = first;
        while len < left {
            expected = expected.map(|offset| offset.saturating_add(block));
            if places.next() != Some(expected) {
                break;
            }
            len = len.saturating_add(block);
        }
        let place = match first {
            Some(offset) => Place::Data { device, offset: offset.saturating_add(skip) },
            None if self.blocks.backed => Place::Unallocated,
            None => Place::Zero { at: None },
        };
        Ok(Extent { at, len: len.min(left), place })
    }
}
