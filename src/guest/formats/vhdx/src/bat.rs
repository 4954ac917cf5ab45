//! The block allocation table ([MS-VHDX] 2.5): an entry for each payload block, and after each chunk of them one for the
//! chunk's sector bitmap.

use alloc::format;
use alloc::string::String;

use instar_image::table::{Span, TableCacheOver};
use instar_image::{FileOffset, Result};

use crate::layout::{BITMAP_BLOCK, CHUNK_SECTORS, OFFSET_MASK, state};
use crate::metadata::Metadata;
use crate::regions::{Range, Regions};
use crate::view::View;

/// How blocks and entries go together.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Bytes of a payload block.
    pub block: u64,
    /// Payload blocks of a chunk.
    pub ratio: u64,
    /// Payload blocks of the disk.
    pub blocks: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// Where the table is.
    pub bat: FileOffset,
    pub differencing: bool,
}

impl Geometry {
    /// That of a disk. `block` is a power of two of a MiB at least.
    pub fn new(metadata: &Metadata, bat: Range) -> Self {
        Self {
            block: metadata.block,
            ratio: CHUNK_SECTORS * metadata.sector / metadata.block,
            blocks: metadata.blocks,
            size: metadata.size,
            bat: bat.at,
            differencing: metadata.backing.is_some(),
        }
    }

    /// Entries of the table. A differencing disk has the bitmap of its last chunk too.
    pub fn entries(&self) -> u64 {
        if self.differencing {
            self.blocks.div_ceil(self.ratio) * (self.ratio + 1)
        } else {
            self.blocks + self.blocks.saturating_sub(1) / self.ratio
        }
    }

    /// Entries that the region must have room for: of a disk without blocks, QEMU counts as many bitmaps as 32 bits
    /// allow, and takes no table that is smaller.
    pub fn entries_of_region(&self) -> u64 {
        if self.blocks == 0 { u64::from(u32::MAX) / self.ratio } else { self.entries() }
    }

    /// The entry of a payload block.
    pub const fn payload(&self, block: u64) -> u64 {
        block + block / self.ratio
    }

    /// The entry of the sector bitmap of a payload block's chunk.
    pub const fn bitmap(&self, block: u64) -> u64 {
        (block / self.ratio) * (self.ratio + 1) + self.ratio
    }

    /// Whether that entry is of a sector bitmap.
    pub const fn is_bitmap(&self, entry: u64) -> bool {
        entry % (self.ratio + 1) == self.ratio
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    /// Of a block at `offset` in that state.
    pub const fn at(offset: FileOffset, state: u64) -> Self {
        Self(offset.get() | state)
    }

    /// The state of the block.
    pub const fn state(self) -> u64 {
        self.0 & state::MASK
    }

    /// Where the block is.
    pub const fn offset(self) -> FileOffset {
        FileOffset::new(self.0 & OFFSET_MASK)
    }
}

/// The table, read in pieces.
pub struct Bat<'a> {
    table: Span,
    cache: TableCacheOver<View<'a>, 8>,
}

impl<'a> Bat<'a> {
    /// Nothing is read yet.
    pub fn new(view: &View<'a>, geometry: &Geometry) -> Self {
        let table = Span { offset: geometry.bat, count: geometry.entries() };
        Self { table, cache: TableCacheOver::over(view.clone()) }
    }

    /// The entry number `index`; behind the end of the table nothing is present.
    pub fn entry(&mut self, index: u64) -> Result<Entry> {
        Ok(Entry(self.cache.entry(self.table, index)?.map_or(0, u64::from_le_bytes)))
    }
}

/// Whether every block lies in the file and in no region; `wrong` takes each that does not, in the stock tool's words.
pub fn verify(
    view: &View<'_>,
    geometry: &Geometry,
    regions: &Regions,
    wrong: &mut dyn FnMut(String) -> Result<()>,
) -> Result<()> {
    let file_end = view.end()?.checked_next_multiple_of(512).unwrap_or(FileOffset::MAX);
    let entries = geometry.entries();
    let mut bat = Bat::new(view, geometry);
    for index in 0..entries {
        let found = bat.entry(index)?;
        let present = found.state() == state::FULLY_PRESENT
            || (geometry.differencing && found.state() == state::PARTIALLY_PRESENT);
        if !present {
            continue;
        }
        let bitmap = geometry.is_bitmap(index);
        let len = if bitmap && geometry.differencing { BITMAP_BLOCK } else { geometry.block };
        let offset = found.offset();
        if offset.checked_add(len).is_none_or(|end| end > FileOffset::END_MAX) {
            wrong(format!("VHDX BAT entry {index} offset overflow."))?;
        }
        // Of the disk's last block, only what the disk has of it.
        let tail = geometry.size % geometry.block;
        let last = !geometry.differencing && index == entries - 1 && tail != 0;
        let used = if last { tail } else { len };
        let what = if offset >= file_end {
            Some(("start", offset))
        } else if offset.saturating_add(used) > file_end {
            Some(("end", offset.saturating_add(used) - 1))
        } else {
            None
        };
        if let Some((which, at)) = what {
            wrong(format!(
                "VHDX BAT entry {index} {which} offset {at} points after end of file ({file_end}). Image has probably \
                 been truncated."
            ))?;
        }
        if let (false, Some(text)) = (bitmap, regions.overlap(Range { at: offset, len })) {
            wrong(text)?;
        }
    }
    Ok(())
}
