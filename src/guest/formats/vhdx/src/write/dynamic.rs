//! The writer of dynamic and differencing disks: blocks are placed in the order in which their data comes.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::create::check_room;
use instar_image::sealed::{self, Placed};
use instar_image::write::{Piece, Target, Writer};
use instar_image::{CreateContext, DeviceId, Error, FileOffset, Machine, Result, Step};
use spin::Mutex;

use super::encode;
use super::pages::Pages;
use super::spec::{SECTOR, Spec};
use crate::bat::{Entry, Geometry};
use crate::header::identity;
use crate::layout::{BITMAP_BLOCK, state};

/// Bytes in which zeroes are left out of a block.
const UNIT: u64 = 4096;

struct Dynamic<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    spec: Spec,
    geometry: Geometry,
    /// What the parent of a child is known by.
    linkage: Option<[u8; 16]>,
    state: Mutex<State>,
}

struct State {
    table: Pages,
    /// Behind the last block.
    end: FileOffset,
    /// Of a child: the chunk whose sector bitmap is being filled, and the bitmap.
    bitmap: Option<(u64, Vec<u8>)>,
}

/// Nothing is written yet.
pub fn create<'a>(cx: &CreateContext<'a, '_>, spec: Spec, parent: Option<DeviceId>) -> Result<Box<dyn Writer + 'a>> {
    let (machine, device) = (cx.machine, cx.device);
    check_room(machine, device, spec.data().get())?;
    let stat = machine.stat(device)?;
    if !stat.fresh {
        // Blocks are not written whole.
        machine.submit(&[
            Step::Zero { device, offset: FileOffset::ZERO, len: stat.len, unmap: true },
            Step::Barrier { device },
        ])?;
    }
    let linkage = parent.map(|parent| identity(machine, parent, cx.version)).transpose()?;
    let default = if spec.zero { state::ZERO } else { state::NOT_PRESENT };
    let state = Mutex::new(State { table: Pages::new(default), end: spec.data(), bitmap: None });
    let geometry = spec.geometry();
    Ok(Box::new(Dynamic { machine, device, spec, geometry, linkage, state }))
}

impl Dynamic<'_> {
    /// Where block number `block` is, which gets a place if it has none.
    fn block(&self, state: &mut State, block: u64) -> Result<FileOffset> {
        let index = self.geometry.payload(block);
        let entry = Entry(state.table.get(index));
        if entry.offset() != FileOffset::ZERO {
            return Ok(entry.offset());
        }
        let offset = state.end;
        let present = if self.linkage.is_some() { state::PARTIALLY_PRESENT } else { state::FULLY_PRESENT };
        state.table.set(index, Entry::at(offset, present).0)?;
        state.end = offset.checked_add(self.geometry.block).ok_or_else(|| Error::limit("the file gets too large"))?;
        Ok(offset)
    }

    /// Makes the sectors of `len` bytes from byte `inside` of a block on the child's own.
    fn mark(&self, state: &mut State, block: u64, inside: u64, len: u64, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        let chunk = block / self.geometry.ratio;
        if state.bitmap.as_ref().is_none_or(|(held, _)| *held != chunk) {
            self.flush_bitmap(state, steps)?;
            state.bitmap = Some((chunk, vec![0; BITMAP_BLOCK as usize]));
        }
        let Some((_, bitmap)) = &mut state.bitmap else { return Ok(()) };
        let base = (block % self.geometry.ratio) * self.geometry.block + inside;
        for sector in base / SECTOR..(base + len).div_ceil(SECTOR) {
            if let Some(byte) = usize::try_from(sector / 8).ok().and_then(|i| bitmap.get_mut(i)) {
                *byte |= 1 << (sector % 8);
            }
        }
        Ok(())
    }

    /// Writes the bitmap of the chunk that was filled last; blocks that are all the child's need none.
    fn flush_bitmap(&self, state: &mut State, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        let Some((chunk, data)) = state.bitmap.take() else { return Ok(()) };
        let first = chunk * self.geometry.ratio;
        let per_block = (self.geometry.block / SECTOR / 8) as usize;
        let mut partial = false;
        for (block, bits) in (first..self.geometry.blocks).zip(data.chunks(per_block)) {
            let index = self.geometry.payload(block);
            let entry = Entry(state.table.get(index));
            if entry.state() != state::PARTIALLY_PRESENT {
                continue;
            }
            if bits.iter().all(|b| *b == 0xff) {
                state.table.set(index, Entry::at(entry.offset(), state::FULLY_PRESENT).0)?;
            } else {
                partial = true;
            }
        }
        if partial {
            let offset = state.end;
            state.end = offset + BITMAP_BLOCK;
            state.table.set(self.geometry.bitmap(first), Entry::at(offset, state::FULLY_PRESENT).0)?;
            steps.push(Placed::Owned { device: self.device, offset, data });
        }
        Ok(())
    }
}

impl Writer for Dynamic<'_> {
    fn target(&self) -> Target {
        Target::Allocated { unit: UNIT, zero_unit: UNIT, zeroed: self.linkage.is_none() }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let device = self.device;
        // What has no block reads as zeroes.
        if matches!(piece, Piece::Zero(_)) && self.linkage.is_none() {
            return Ok(());
        }
        let state = &mut *self.state.lock();
        let (size, unit) = (self.spec.size, self.geometry.block);
        let end = at.saturating_add(piece.disk_len().unwrap_or(0)).min(size);
        let mut bitmaps = Vec::new();
        piece.spread((at, size), unit, device, steps, |block| {
            if self.linkage.is_some() {
                let begin = at.max(block * unit);
                let len = end.min((block + 1) * unit) - begin;
                self.mark(state, block, begin % unit, len, &mut bitmaps)?;
            }
            self.block(state, block).map(Some)
        })?;
        steps.append(&mut bitmaps);
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        let (machine, device) = (self.machine, self.device);
        let state = &mut *self.state.lock();
        let mut steps = Vec::new();
        self.flush_bitmap(state, &mut steps)?;
        sealed::submit(machine, steps, None)?;
        machine.submit(&[Step::SetLength { device, len: state.end.get() }])?;
        state.table.write(machine, device, &self.geometry, self.spec.bat_len())?;
        encode::write(machine, device, &self.spec, self.linkage.as_ref())
    }
}
