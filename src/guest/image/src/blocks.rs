//! Disks of blocks with one table, an entry of 32 bits for each: read, written new or changed in place.
//!
//! A format says what its entries mean ([`Blocks`]); where blocks go and in what order things get stable is the same
//! for all: bytes go to new blocks at the end, the file has its length, then what counts the blocks is written, then the
//! entries. A run that is cut in between has blocks that nothing refers to.

mod read;

use alloc::vec::Vec;

use spin::Mutex;

use crate::sealed::{self, Placed};
use crate::table::{Span, TableCache};
use crate::write::{Piece, Target};
use crate::{DeviceId, Error, Extent, FileOffset, Machine, Place, Result, Source, Spot, Step};

pub use read::BlockReader;

/// Entries that may wait: 16 bytes each.
const WAITING_MAX: usize = 1 << 16;
/// Bytes in which zeroes are left out of a block.
const PAGE: u64 = 4096;
/// Bytes of a table that are written at once.
const FILL: usize = 1 << 16;

/// A table, and what its entries mean. Lengths are in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// The device.
    pub device: DeviceId,
    /// Length of the disk.
    pub size: u64,
    /// Length of a block.
    pub block: u64,
    /// The table.
    pub table: Span,
    /// Entry `n` is the block at `base + n * scale`.
    pub base: FileOffset,
    /// See [`Blocks::base`].
    pub scale: u64,
    /// Whether an entry is that of no block.
    pub absent: fn(u32) -> bool,
    /// How entries are stored.
    pub big_endian: bool,
    /// Where there is no block, what lies below shows (else zeroes).
    pub backed: bool,
}

impl Blocks {
    /// Offset of the block that an entry is for.
    #[must_use]
    pub fn place(&self, entry: u32) -> Option<FileOffset> {
        if (self.absent)(entry) { None } else { self.base.checked_add(u64::from(entry).checked_mul(self.scale)?) }
    }

    /// The place behind the table, before all blocks.
    const fn table_end(&self) -> FileOffset {
        self.table.offset.saturating_add(self.table.count.saturating_mul(4))
    }

    /// The entry for a block at `offset`.
    fn entry(&self, offset: FileOffset) -> Result<u32> {
        let entry = offset.checked_since(self.base).and_then(|o| u32::try_from(o / self.scale).ok());
        entry.filter(|e| !(self.absent)(*e)).ok_or_else(|| Error::limit("the file gets too large"))
    }

    /// An entry's value.
    const fn value(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// An entry as it is stored.
    const fn bytes(&self, entry: u32) -> [u8; 4] {
        if self.big_endian { entry.to_be_bytes() } else { entry.to_le_bytes() }
    }

    /// Entry number `index`; `None` behind the end of the table.
    pub fn at(&self, machine: &dyn Machine, index: u64) -> Result<Option<u32>> {
        let entry = TableCache::<4>::new(machine.source(), self.device).entry(self.table, index)?;
        Ok(entry.map(|bytes| self.value(bytes)))
    }

    /// Calls `each` for every entry: its number and its value.
    pub fn each(&self, source: &dyn Source, mut each: impl FnMut(u64, u32) -> Result<()>) -> Result<()> {
        TableCache::<4>::new(source, self.device).each(self.table, |first, entries| {
            entries.iter().zip(first..).try_for_each(|(entry, index)| each(index, self.value(*entry)))
        })
    }

    /// Writes entries, in ascending order of their numbers, and then they are stable.
    pub fn patch(&self, machine: &dyn Machine, entries: &[(u64, u32)]) -> Result<()> {
        self.patch_and_tell(machine, entries, |_, _| ())
    }

    /// The same; what is written, and where, is told when it is stable.
    fn patch_and_tell(
        &self,
        machine: &dyn Machine,
        entries: &[(u64, u32)],
        mut wrote: impl FnMut(FileOffset, &[u8]),
    ) -> Result<()> {
        let device = self.device;
        let runs = entries.chunk_by(|(a, _), (b, _)| a + 1 == *b).map(|run| {
            let first = run.first().map_or(0, |(number, _)| *number);
            let data: Vec<u8> = run.iter().flat_map(|(_, entry)| self.bytes(*entry)).collect();
            (self.table.offset + first * 4, data)
        });
        let runs: Vec<(FileOffset, Vec<u8>)> = runs.collect();
        let writes = runs.iter().map(|(offset, data)| Step::Write { device, offset: *offset, data });
        machine.submit(&writes.chain([Step::Barrier { device }]).collect::<Vec<_>>())?;
        runs.iter().for_each(|(offset, data)| wrote(*offset, data));
        Ok(())
    }

    /// Copies what lies in blocks before `limit` to new blocks from `end` on; returns the new end. `count` is as of
    /// [`BlockWriter::settle`]. No two entries are for the same block.
    pub fn clear_below(
        &self,
        machine: &dyn Machine,
        limit: FileOffset,
        mut end: FileOffset,
        mut count: impl FnMut(FileOffset) -> Result<()>,
    ) -> Result<FileOffset> {
        let device = self.device;
        loop {
            let mut found: Vec<(u64, u32)> = Vec::new();
            self.each(machine.source(), |number, entry| {
                let offset = self.place(entry);
                if offset.is_some_and(|offset| offset < self.table_end()) {
                    return Err(misplaced());
                }
                let below = offset.is_some_and(|offset| offset < limit);
                if below && found.len() < WAITING_MAX {
                    found.push((number, entry));
                }
                Ok(())
            })?;
            if found.is_empty() {
                return Ok(end);
            }
            for (_, entry) in &mut found {
                let from_offset = self.place(*entry).unwrap_or_default();
                *entry = self.entry(end)?;
                machine.submit(&[Step::Copy {
                    from: device,
                    from_offset,
                    to: device,
                    to_offset: end,
                    len: self.block,
                    zeroes: crate::Zeroes::Copied,
                }])?;
                end = end.checked_add(self.block).ok_or_else(|| Error::limit("the file gets too large"))?;
            }
            machine.submit(&[Step::Barrier { device }])?;
            count(end)?;
            self.patch(machine, &found)?;
        }
    }

    /// Clears what a block that there is holds behind the end of the disk: a longer disk shows it.
    pub fn clear_tail(&self, machine: &dyn Machine) -> Result<()> {
        let inside = self.size % self.block;
        let Some(number) = self.size.checked_sub(inside).map(|at| at / self.block).filter(|_| inside > 0) else {
            return Ok(());
        };
        let Some(offset) = self.at(machine, number)?.and_then(|entry| self.place(entry)) else { return Ok(()) };
        if offset < self.table_end() {
            return Err(misplaced());
        }
        let (device, offset) = (self.device, offset.saturating_add(inside));
        let zero = Step::Zero { device, offset, len: self.block - inside, unmap: false };
        machine.submit(&[zero, Step::Barrier { device }])
    }

    /// Writes the table: `value(n)` is entry number `n`.
    pub fn fill(&self, machine: &dyn Machine, from: u64, value: impl Fn(u64) -> u32) -> Result<()> {
        let mut index = from;
        while index < self.table.count {
            let end = self.table.count.min(index + (FILL / 4) as u64);
            let data: Vec<u8> = (index..end).flat_map(|n| self.bytes(value(n))).collect();
            let offset = self.table.offset + index * 4;
            machine.submit(&[Step::Write { device: self.device, offset, data: &data }])?;
            index = end;
        }
        Ok(())
    }
}

fn misplaced() -> Error {
    Error::corrupt("the table refers to a place where no block can be")
}

/// Places data in blocks.
pub struct BlockWriter<'a> {
    machine: &'a dyn Machine,
    blocks: Blocks,
    reader: BlockReader<'a>,
    /// End of the file when this began: behind it, all is zeroes.
    old_end: FileOffset,
    /// The disk reads as zeroes.
    fresh: bool,
    state: Mutex<State>,
}

struct State {
    /// New entries by number, in ascending order.
    added: Vec<(u64, u32)>,
    /// Offset of the next new block.
    end: FileOffset,
    /// Offset to which the file is known to reach.
    reach: FileOffset,
}

impl<'a> BlockWriter<'a> {
    /// New blocks are put from `end` on. `fresh`: there are none yet.
    pub fn new(machine: &'a dyn Machine, blocks: Blocks, end: FileOffset, fresh: bool) -> Result<Self> {
        let old_end = machine.stat(blocks.device)?.end();
        let reader = BlockReader::new(machine.source(), blocks);
        let state = Mutex::new(State { added: Vec::new(), end, reach: old_end });
        Ok(Self { machine, blocks, reader, old_end, fresh, state })
    }

    /// The blocks.
    pub const fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Offset behind the last block.
    pub fn end(&self) -> FileOffset {
        self.state.lock().end
    }

    /// See [`crate::Writer::target`].
    pub const fn target(&self) -> Target {
        let unit = if self.blocks.block.is_multiple_of(PAGE) { PAGE } else { 512 };
        Target::Allocated { unit, zero_unit: unit, zeroed: self.fresh }
    }

    /// See [`crate::Writer::place`].
    pub fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let state = &mut *self.state.lock();
        let Blocks { device, block, size, .. } = self.blocks;
        let is_zero = matches!(piece, Piece::Zero(_));
        piece.spread((at, size), block, device, steps, |number| {
            if let Some(offset) = self.find(state, number)? {
                return Ok(Some(offset));
            }
            if is_zero {
                return Ok(None);
            }
            let offset = state.end;
            let entry = self.blocks.entry(offset)?;
            state.end = offset.checked_add(block).ok_or_else(|| Error::limit("the file gets too large"))?;
            let at = state.added.partition_point(|(n, _)| *n < number);
            state.added.insert(at, (number, entry));
            if offset < self.old_end {
                // Nothing refers to what is there; the piece need not be a whole block.
                let len = block.min(self.old_end - offset);
                self.machine.submit(&[Step::Zero { device, offset, len, unmap: true }, Step::Barrier { device }])?;
            }
            Ok(Some(offset))
        })
    }

    /// Offset of a block that there is.
    fn find(&self, state: &State, number: u64) -> Result<Option<FileOffset>> {
        if let Ok(at) = state.added.binary_search_by_key(&number, |(n, _)| *n) {
            return Ok(state.added.get(at).and_then(|(_, entry)| self.blocks.place(*entry)));
        }
        let entry = self.reader.entry(number)?;
        let entry = entry.ok_or_else(|| Error::corrupt("a block behind the end of the table"))?;
        match self.blocks.place(entry) {
            // What the table says of a place is not written to if it cannot be: before all blocks, or behind the file.
            Some(offset) if offset < self.blocks.table_end() || offset >= state.reach => Err(misplaced()),
            place => Ok(place),
        }
    }

    /// See [`crate::Image::extent`].
    pub fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let state = self.state.lock();
        let (block, number) = (self.blocks.block, at / self.blocks.block);
        let waiting = state.added.get(state.added.partition_point(|(n, _)| *n < number)..).and_then(<[_]>::first);
        let left = self.blocks.size.saturating_sub(at).min(max);
        match waiting {
            Some((first, entry)) if *first == number => {
                let skip = at % block;
                let offset = self.blocks.place(*entry).ok_or_else(misplaced)?.saturating_add(skip);
                let place = Place::Data { device: self.blocks.device, offset };
                Ok(Extent { at, len: (block - skip).min(left), place })
            }
            Some((next, _)) => self.reader.extent(at, left.min(next.saturating_mul(block) - at)),
            None => self.reader.extent(at, left),
        }
    }

    /// See [`crate::Editor::own`].
    pub fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        let Blocks { device, block, .. } = self.blocks;
        let (found, skip) = (self.find(&self.state.lock(), at / block)?, at % block);
        Ok(found.map(|offset| Spot { device, offset: offset.saturating_add(skip), len: max.min(block - skip) }))
    }

    /// See [`crate::Writer::is_full`].
    pub fn is_full(&self) -> bool {
        self.state.lock().added.len() >= WAITING_MAX
    }

    /// Makes the new blocks part of the image. `count` gives what else must be stable before entries refer to
    /// them: what the image tells of its blocks.
    pub fn settle(&self, count: impl FnOnce(FileOffset) -> Vec<Placed<'static>>) -> Result<()> {
        let state = &mut *self.state.lock();
        let (machine, device) = (self.machine, self.blocks.device);
        if state.end > state.reach && !state.added.is_empty() {
            machine.submit(&[Step::SetLength { device, len: state.end.get() }])?;
            state.reach = state.end;
        }
        machine.submit(&[Step::Barrier { device }])?;
        if state.added.is_empty() {
            return Ok(());
        }
        let counted = count(state.end);
        if !counted.is_empty() {
            sealed::submit(machine, counted, None)?;
            machine.submit(&[Step::Barrier { device }])?;
        }
        self.blocks.patch_and_tell(machine, &state.added, |offset, data| self.reader.wrote(offset, data))?;
        state.added.clear();
        Ok(())
    }
}
