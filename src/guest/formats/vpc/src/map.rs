//! From the virtual disk to the file.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::blocks::{BlockReader, Blocks as Table};
use instar_image::runs::RunMap;
use instar_image::{DeviceId, Error, Extent, FileOffset, OpenContext, Place, Result, Run, Source};
use spin::Mutex;

use crate::header::Dynamic;
use crate::layout::{SECTOR, bitmap_len};

/// Where the bytes of a disk are.
pub enum Map<'a> {
    /// In the file as in the disk.
    Fixed { device: DeviceId, runs: RunMap<'a> },
    /// In blocks.
    Blocks(Box<Blocks<'a>>),
}

impl Map<'_> {
    /// The extent at `at`, at most `max` bytes of a disk of `size` bytes.
    pub fn extent(&self, at: u64, max: u64, size: u64) -> Result<Extent> {
        self.found(at, max, size, |runs, offset| runs.run(offset))
    }

    /// The same of a disk that is being written to.
    pub fn extent_now(&self, at: u64, max: u64, size: u64) -> Result<Extent> {
        self.found(at, max, size, |runs, offset| runs.run_now(offset))
    }

    fn found(
        &self,
        at: u64,
        max: u64,
        size: u64,
        run: impl FnOnce(&RunMap<'_>, FileOffset) -> Result<Run>,
    ) -> Result<Extent> {
        let left = size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        match self {
            Map::Fixed { device, runs } => {
                let offset = FileOffset::new(at);
                let run = run(runs, offset)?;
                let place = if run.data {
                    Place::Data { device: *device, offset }
                } else {
                    Place::Zero { at: Some((*device, offset)) }
                };
                Ok(Extent { at, len: run.len.min(left), place })
            }
            Map::Blocks(blocks) => blocks.extent(at, left),
        }
    }
}

/// Blocks, each behind a bitmap of its sectors.
pub struct Blocks<'a> {
    blocks: BlockReader<'a>,
    /// Bytes of a block.
    block: u64,
    /// End of the file, of an image that may be damaged: what lies behind it is lost.
    file_end: FileOffset,
    /// Of a child, whose are sectors. (Else the bitmaps mean nothing: QEMU does not look at them, and writes all bits as
    /// soon as it allocates a block.)
    bitmaps: Option<Mutex<Bitmaps<'a>>>,
}

impl<'a> Blocks<'a> {
    /// Nothing is read yet.
    pub fn new(
        cx: &OpenContext<'a, '_>,
        header: &Dynamic,
        size: u64,
        differencing: bool,
        file_end: FileOffset,
    ) -> Self {
        let (source, device, block) = (cx.source, cx.device, header.block);
        let blocks = Table {
            block,
            base: FileOffset::new(bitmap_len(block)),
            backed: differencing,
            ..header.blocks(cx.device, size)
        };
        let bitmaps = differencing.then(|| Mutex::new(Bitmaps::new(source, device, block)));
        Self { blocks: BlockReader::new(source, blocks), block, file_end, bitmaps }
    }

    fn extent(&self, at: u64, left: u64) -> Result<Extent> {
        let found = self.blocks.extent(at, left)?;
        let Place::Data { offset, .. } = found.place else { return Ok(found) };
        let inside = at % self.block;
        let of_block = |e: Error| e.losing(self.block - inside);
        let (own, len) = match &self.bitmaps {
            Some(bitmaps) => bitmaps.lock().run(offset, inside).map_err(of_block)?,
            None => (true, found.len),
        };
        let len = len.min(found.len);
        if !own {
            return Ok(Extent { len, place: Place::Unallocated, ..found });
        }
        // Of a block that the file has in part, that part can be had.
        match self.file_end.saturating_since(offset) {
            0 => Err(of_block(Error::malformed("Input/output error"))),
            held => Ok(Extent { len: len.min(held), ..found }),
        }
    }
}

/// The bitmaps of a child's blocks, of which one is held.
pub struct Bitmaps<'a> {
    source: &'a dyn Source,
    device: DeviceId,
    /// Bytes of a block.
    block: u64,
    /// Where the one that is held is.
    at: Option<FileOffset>,
    bytes: Vec<u8>,
}

impl<'a> Bitmaps<'a> {
    /// Of blocks of `block` bytes; none is held.
    pub const fn new(source: &'a dyn Source, device: DeviceId, block: u64) -> Self {
        Self { source, device, block, at: None, bytes: Vec::new() }
    }

    /// They were written to.
    pub fn forget(&mut self) {
        self.at = None;
    }

    /// Whether the sector at byte `inside` of its block, and at `offset` in the file, is the child's, and the bytes for
    /// which that stays.
    pub fn run(&mut self, offset: FileOffset, inside: u64) -> Result<(bool, u64)> {
        let len = bitmap_len(self.block);
        let at = offset.saturating_sub(inside).saturating_sub(len);
        if self.at != Some(at) {
            self.at = None;
            self.bytes.resize(usize::try_from(len).unwrap_or_default(), 0);
            self.source.read(self.device, at, &mut self.bytes)?;
            self.at = Some(at);
        }
        Ok(run_in(&self.bytes, self.block, inside))
    }
}

/// The same by a bitmap.
pub fn run_in(bitmap: &[u8], block: u64, inside: u64) -> (bool, u64) {
    let bit = |sector: u64| {
        let byte = usize::try_from(sector / 8).ok().and_then(|i| bitmap.get(i)).copied().unwrap_or(0);
        byte & (0x80 >> (sector % 8)) != 0
    };
    let first = inside / SECTOR;
    let end = block / SECTOR;
    let own = bit(first);
    let next = (first.saturating_add(1)..end).find(|s| bit(*s) != own).unwrap_or(end);
    (own, (next * SECTOR).saturating_sub(inside))
}

/// The place behind the last block, or behind the table if there is none.
pub fn end_of_blocks(source: &dyn Source, device: DeviceId, header: &Dynamic) -> Result<FileOffset> {
    let table = header.blocks(device, 0);
    let bytes = header.entries * 4;
    let mut end = header.table.saturating_add(bytes).checked_next_multiple_of(SECTOR).unwrap_or(FileOffset::MAX);
    let file_end = source.stat(device)?.end();
    // Entries behind the end of the file need no reading to know that the file is too short.
    if end > file_end.checked_next_multiple_of(SECTOR).unwrap_or(FileOffset::MAX) {
        return Ok(end);
    }
    table.each(source, |_, entry| {
        end = end.max(table.place(entry).map_or(FileOffset::ZERO, |offset| offset + table.block));
        Ok(())
    })?;
    Ok(end)
}
