//! The writer of dynamic and differencing disks: blocks are placed in the order in which their data comes.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::sealed::{self, Placed};
use instar_image::write::{Piece, Target, Writer};
use instar_image::{CreateContext, DeviceId, Error, FileOffset, Machine, Result, Step};
use spin::Mutex;

use super::encode::{Identity, Parent, dynamic_header, footer_of, identity, locator};
use super::spec::Spec;
use crate::layout::{DYNAMIC_HEADER, FOOTER, SECTOR, UNUSED, bitmap_len, block_at};

/// Bytes of a block, as every product makes them.
const BLOCK: u64 = 2 << 20;
/// Bytes in which zeroes are left out of a block.
const UNIT: u64 = 4096;
/// Where the block allocation table is: behind the copy of the footer and the dynamic disk header.
const TABLE: FileOffset = FileOffset::new((FOOTER + DYNAMIC_HEADER) as u64);
/// Entries of the table that are written at once.
const ENTRIES_AT_ONCE: usize = 1 << 16;

struct Dynamic<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    spec: Spec,
    /// Identifier and time of the parent.
    parent: Option<Identity>,
    /// Code, text and offset of each parent locator.
    locators: Vec<([u8; 4], Vec<u8>, FileOffset)>,
    state: Mutex<State>,
}

struct State {
    table: Vec<u32>,
    /// Behind the last block.
    end: FileOffset,
    /// The bitmap of a child's block that is being filled, and where the block is.
    bitmap: Option<(FileOffset, Vec<u8>)>,
}

/// Nothing is written yet.
pub fn create<'a>(cx: &CreateContext<'a, '_>, spec: Spec, parent: Option<DeviceId>) -> Result<Box<dyn Writer + 'a>> {
    let (machine, device) = (cx.machine, cx.device);
    let stat = machine.stat(device)?;
    if !stat.fresh {
        // Blocks are not written whole.
        machine.submit(&[
            Step::Zero { device, offset: FileOffset::ZERO, len: stat.len, unmap: true },
            Step::Barrier { device },
        ])?;
    }
    let entries = spec.size.div_ceil(BLOCK);
    let mut end = TABLE + (entries * 4).next_multiple_of(SECTOR);
    let mut locators = Vec::new();
    let parent = match (parent, &spec.parent) {
        (Some(parent), Some(name)) => {
            let (code, text) = locator(name);
            let room = (text.len() as u64).next_multiple_of(SECTOR);
            locators.push((code, text, end));
            end += room;
            Some(identity(machine, parent)?)
        }
        _ => None,
    };
    let table = vec![UNUSED; usize::try_from(entries).unwrap_or_default()];
    let state = Mutex::new(State { table, end, bitmap: None });
    Ok(Box::new(Dynamic { machine, device, spec, parent, locators, state }))
}

impl Dynamic<'_> {
    /// Where block number `block` is, which gets a place if it has none.
    fn block(&self, state: &mut State, block: u64, steps: &mut Vec<Placed<'_>>) -> Result<FileOffset> {
        let device = self.device;
        let entry = usize::try_from(block).ok().and_then(|i| state.table.get_mut(i));
        let entry = entry.ok_or_else(|| Error::corrupt("a block behind the end of the disk"))?;
        if *entry != UNUSED {
            return Ok(block_at(*entry));
        }
        let offset = state.end;
        *entry = u32::try_from(offset / SECTOR).map_err(|_| Error::limit("the file gets too large"))?;
        state.end = offset + bitmap_len(BLOCK) + BLOCK;
        if self.parent.is_some() {
            flush_bitmap(device, state, steps);
            state.bitmap = Some((offset, vec![0; bitmap_len(BLOCK) as usize]));
        } else {
            steps.push(Placed::Owned { device, offset, data: vec![0xff; bitmap_len(BLOCK) as usize] });
        }
        Ok(offset)
    }
}

/// Writes the bitmap of the block that was filled last.
fn flush_bitmap(device: DeviceId, state: &mut State, steps: &mut Vec<Placed<'_>>) {
    if let Some((offset, data)) = state.bitmap.take() {
        steps.push(Placed::Owned { device, offset, data });
    }
}

/// Sets the bits of the sectors of `len` bytes from byte `inside` of a block on.
fn mark(bitmap: &mut [u8], inside: u64, len: u64) {
    for sector in inside / SECTOR..(inside + len).div_ceil(SECTOR) {
        if let Some(byte) = usize::try_from(sector / 8).ok().and_then(|i| bitmap.get_mut(i)) {
            *byte |= 0x80 >> (sector % 8);
        }
    }
}

impl Writer for Dynamic<'_> {
    fn target(&self) -> Target {
        Target::Allocated { unit: UNIT, zero_unit: UNIT, zeroed: self.parent.is_none() }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let device = self.device;
        // What has no block reads as zeroes.
        if matches!(piece, Piece::Zero(_)) && self.parent.is_none() {
            return Ok(());
        }
        let state = &mut *self.state.lock();
        let size = self.spec.size;
        let end = at.saturating_add(piece.disk_len().unwrap_or(0)).min(size);
        let mut bitmaps = Vec::new();
        piece.spread((at, size), BLOCK, device, steps, |number| {
            let block = self.block(state, number, &mut bitmaps)?;
            if let Some((_, bitmap)) = &mut state.bitmap {
                let begin = at.max(number * BLOCK);
                mark(bitmap, begin % BLOCK, end.min((number + 1) * BLOCK) - begin);
            }
            Ok(Some(block + bitmap_len(BLOCK)))
        })?;
        steps.append(&mut bitmaps);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let (machine, device) = (self.machine, self.device);
        let state = &mut *self.state.lock();
        let mut steps = Vec::new();
        flush_bitmap(device, state, &mut steps);
        sealed::submit(machine, steps, None)?;
        for (number, entries) in state.table.chunks(ENTRIES_AT_ONCE).enumerate() {
            let mut bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
            bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0xff);
            let offset = TABLE + (number * ENTRIES_AT_ONCE * 4) as u64;
            machine.submit(&[Step::Write { device, offset, data: &bytes }])?;
        }
        for (_, text, offset) in &self.locators {
            let mut bytes = text.clone();
            bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
            machine.submit(&[Step::Write { device, offset: *offset, data: &bytes }])?;
        }
        let named = self.spec.parent.as_deref().zip(self.parent);
        let parent = named.map(|(name, (unique_id, time))| Parent { name, unique_id, time, locators: &self.locators });
        let entries = u32::try_from(state.table.len()).unwrap_or(u32::MAX);
        let header = dynamic_header(TABLE, entries, BLOCK as u32, parent.as_ref());
        let foot = footer_of(&self.spec);
        machine.submit(&[
            Step::Write { device, offset: FileOffset::new(FOOTER as u64), data: &header },
            // Each of both footers makes an image of it.
            Step::Barrier { device },
            Step::Write { device, offset: state.end, data: &foot },
            Step::Write { device, offset: FileOffset::ZERO, data: &foot },
            Step::Barrier { device },
        ])
    }
}
