//! From the virtual disk to the file.

use alloc::vec::Vec;

use instar_image::runs::RunMap;
use instar_image::table::Table;
use instar_image::{DeviceId, Error, Extent, Place, Result, Source};
use spin::Mutex;

use crate::header::Dynamic;
use crate::layout::{SECTOR, UNUSED, bitmap_len};

/// Where the bytes of a disk are.
pub enum Map<'a> {
    /// In the file as in the disk.
    Fixed { device: DeviceId, runs: RunMap<'a> },
    /// In blocks.
    Blocks(Blocks<'a>),
}

impl Map<'_> {
    /// The extent at `at`, at most `max` bytes of a disk of `size` bytes.
    pub fn extent(&self, at: u64, max: u64, size: u64) -> Result<Extent> {
        let left = size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        match self {
            Map::Fixed { device, runs } => {
                let run = runs.run(at)?;
                let place = if run.data {
                    Place::Data { device: *device, offset: at }
                } else {
                    Place::Zero { at: Some((*device, at)) }
                };
                Ok(Extent { at, len: run.len.min(left), place })
            }
            Map::Blocks(blocks) => blocks.extent(at, left),
        }
    }
}

/// Blocks, each behind a bitmap of its sectors.
pub struct Blocks<'a> {
    source: &'a dyn Source,
    device: DeviceId,
    /// Bytes of a block.
    block: u64,
    /// Bytes of the file, of an image that may be damaged: what lies behind them is lost.
    file: u64,
    /// Sectors whose bit is not set are the parent's. (Else the bitmaps mean nothing: QEMU does not look at them, and
    /// writes all bits as soon as it allocates a block.)
    differencing: bool,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    table: Table<'a, 4>,
    /// Byte offset of the bitmap that is held.
    bitmap_at: Option<u64>,
    bitmap: Vec<u8>,
}

impl<'a> Blocks<'a> {
    /// Nothing is read yet.
    pub fn new(source: &'a dyn Source, device: DeviceId, header: &Dynamic, differencing: bool, file: u64) -> Self {
        let table = Table::new(source, device, header.table, header.entries);
        let state = Mutex::new(State { table, bitmap_at: None, bitmap: Vec::new() });
        Self { source, device, block: header.block, file, differencing, state }
    }

    fn extent(&self, at: u64, left: u64) -> Result<Extent> {
        let state = &mut *self.state.lock();
        let mut block = at / self.block;
        let inside = at % self.block;
        let in_block = (self.block - inside).min(left);
        let of_block = |e: Error| e.losing(self.block - inside);
        if let Some(offset) = place_of(&mut state.table, block).map_err(of_block)? {
            let data = offset.saturating_add(bitmap_len(self.block)).saturating_add(inside);
            let here = Place::Data { device: self.device, offset: data };
            // Of a block that the file has in part, that part can be had.
            let held = self.file.saturating_sub(data);
            let none = || of_block(Error::malformed("Input/output error"));
            if !self.differencing {
                return if held > 0 { Ok(Extent { at, len: in_block.min(held), place: here }) } else { Err(none()) };
            }
            let (own, len) = self.sectors(state, offset, inside).map_err(of_block)?;
            if own && held == 0 {
                return Err(none());
            }
            let len = if own { len.min(held) } else { len };
            let place = if own { here } else { Place::Unallocated };
            return Ok(Extent { at, len: len.min(in_block), place });
        }
        let mut len = in_block;
        while len < left {
            block = block.saturating_add(1);
            // A bad entry is reported when it is its turn.
            if !matches!(place_of(&mut state.table, block), Ok(None)) {
                break;
            }
            len = len.saturating_add(self.block).min(left);
        }
        let place = if self.differencing { Place::Unallocated } else { Place::Zero { at: None } };
        Ok(Extent { at, len, place })
    }

    /// Whether the sector at byte `inside` of the block at `offset` is the child's, and the bytes for which that stays.
    fn sectors(&self, state: &mut State<'_>, offset: u64, inside: u64) -> Result<(bool, u64)> {
        if state.bitmap_at != Some(offset) {
            state.bitmap_at = None;
            state.bitmap.resize(usize::try_from(bitmap_len(self.block)).unwrap_or_default(), 0);
            self.source.read(self.device, offset, &mut state.bitmap)?;
            state.bitmap_at = Some(offset);
        }
        let bit = |sector: u64| {
            let byte = usize::try_from(sector / 8).ok().and_then(|i| state.bitmap.get(i)).copied().unwrap_or(0);
            byte & (0x80 >> (sector % 8)) != 0
        };
        let first = inside / SECTOR;
        let end = self.block / SECTOR;
        let own = bit(first);
        let next = (first.saturating_add(1)..end).find(|s| bit(*s) != own).unwrap_or(end);
        Ok((own, (next * SECTOR).saturating_sub(inside)))
    }
}

/// Byte offset of the bitmap of block number `block`, if it has a place.
pub fn place_of(table: &mut Table<'_, 4>, block: u64) -> Result<Option<u64>> {
    let entry = table.get(block)?.map(u32::from_be_bytes);
    Ok(entry.filter(|e| *e != UNUSED).map(|e| u64::from(e) * SECTOR))
}

/// The byte behind the last block, or behind the table if there is none.
pub fn end_of_blocks(source: &dyn Source, device: DeviceId, header: &Dynamic) -> Result<u64> {
    let mut table = Table::<4>::new(source, device, header.table, header.entries);
    let bytes = header.entries * 4;
    let mut end = header.table.saturating_add(bytes).checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
    let len = source.stat(device)?.len;
    // Entries behind the end of the file need no reading to know that the file is too short.
    if end > len.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX) {
        return Ok(end);
    }
    for block in 0..header.entries {
        if let Some(offset) = place_of(&mut table, block)? {
            end = end.max(offset + bitmap_len(header.block) + header.block);
        }
    }
    Ok(end)
}
