//! From the virtual disk to the file.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::table::Bytes;
use instar_image::{Error, Extent, FileOffset, Kind, Place, Result};
use spin::Mutex;

use crate::bat::{Bat, Geometry};
use crate::layout::{BITMAP_BLOCK, CHUNK_SECTORS, state};
use crate::regions::{Range, Regions};
use crate::view::View;

/// Entries that one extent may run over: a walk through an enormous disk is to come back now and then.
const ENTRIES_AT_ONCE: u64 = 8192;
/// Bytes of a sector bitmap that are read at once.
const BITMAP_PIECE: u64 = 4096;
const EIO: u32 = 5;

/// Where the bytes of the disk are.
pub struct Map<'a> {
    view: View<'a>,
    geometry: Geometry,
    /// Bytes of a sector.
    sector: u64,
    /// Of an image that may be damaged: what no block can lie in, and bytes of the file.
    bounds: Option<(Regions, FileOffset)>,
    state: Mutex<State<'a>>,
}

/// What is kept between calls.
struct State<'a> {
    bat: Bat<'a>,
    /// The piece of a sector bitmap that is held, and its byte offset.
    bitmap: Vec<u8>,
    bitmap_at: FileOffset,
}

/// What a run of blocks has in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    /// From this byte of the file on.
    Data(FileOffset),
    Zero,
    Parent,
    /// By the sector, in the block at this byte of the file.
    Partial(FileOffset),
}

impl<'a> Map<'a> {
    /// Nothing is read yet.
    pub fn new(view: View<'a>, geometry: Geometry, sector: u64, bounds: Option<(Regions, FileOffset)>) -> Self {
        let bat = Bat::new(&view, &geometry);
        let state = Mutex::new(State { bat, bitmap: Vec::new(), bitmap_at: FileOffset::ZERO });
        Self { view, geometry, sector, bounds, state }
    }

    /// The extent at `at`, at most `max` bytes.
    pub fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let left = self.geometry.size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let state = &mut *self.state.lock();
        let mut block = at / self.geometry.block;
        let inside = at % self.geometry.block;
        let of_block = |e: Error| e.losing(self.geometry.block - inside);
        let run = self.run(state, block).map_err(of_block)?;
        let mut len = (self.geometry.block - inside).min(left);
        if let Run::Partial(offset) = run {
            let extent = Extent { at, len, place: Place::Unallocated };
            return self.sectors(state, block, inside, offset, extent).map_err(of_block);
        }
        let until = block.saturating_add(ENTRIES_AT_ONCE);
        while len < left && block < until {
            block += 1;
            // A bad entry is reported when it is its turn.
            let joins = match (run, self.run(state, block)) {
                (_, Err(_)) => false,
                (Run::Data(first), Ok(Run::Data(next))) => first.checked_add(inside + len) == Some(next),
                (run, Ok(next)) => run == next,
            };
            if !joins {
                break;
            }
            len = len.saturating_add(self.geometry.block).min(left);
        }
        let place = match run {
            Run::Data(offset) => {
                let offset = offset.saturating_add(inside);
                // Of a block that the file has in part, that part can be had.
                let held = self.bounds.as_ref().map_or(u64::MAX, |(_, end)| end.saturating_since(offset));
                if held == 0 {
                    return Err(of_block(unreadable()));
                }
                len = len.min(held);
                if self.view.is_patched(offset, len) {
                    return Err(Error::corrupt("the log changes the content of the disk"));
                }
                Place::Data { device: self.view.device, offset }
            }
            Run::Zero => Place::Zero { at: None },
            Run::Parent | Run::Partial(_) => Place::Unallocated,
        };
        Ok(Extent { at, len, place })
    }

    fn run(&self, state: &mut State<'_>, block: u64) -> Result<Run> {
        let found = state.bat.entry(self.geometry.payload(block))?;
        let here = Range { at: found.offset(), len: self.geometry.block };
        let has_place = matches!(found.state(), state::FULLY_PRESENT | state::PARTIALLY_PRESENT);
        if has_place && self.bounds.as_ref().is_some_and(|(regions, _)| regions.overlap(here).is_some()) {
            return Err(unreadable());
        }
        Ok(match found.state() {
            state::FULLY_PRESENT => Run::Data(found.offset()),
            state::NOT_PRESENT if self.geometry.differencing => Run::Parent,
            state::PARTIALLY_PRESENT if self.geometry.differencing => Run::Partial(found.offset()),
            state::NOT_PRESENT | state::UNDEFINED | state::ZERO | state::UNMAPPED | state::UNMAPPED_DRAFT => Run::Zero,
            _ => return Err(unreadable()),
        })
    }

    /// Of a block that is partly the parent's: whose the sector at `inside` is, and for how long that stays.
    fn sectors(
        &self,
        state: &mut State<'_>,
        block: u64,
        inside: u64,
        offset: FileOffset,
        extent: Extent,
    ) -> Result<Extent> {
        let bitmap = state.bat.entry(self.geometry.bitmap(block))?;
        if bitmap.state() != state::FULLY_PRESENT {
            return Err(Error::corrupt("a block is partly present and has no sector bitmap"));
        }
        let first = ((block % self.geometry.ratio) * self.geometry.block + inside) / self.sector;
        let end = (first + extent.len.div_ceil(self.sector)).min(CHUNK_SECTORS);
        let own = state.bit(&self.view, bitmap.offset(), first)?;
        let mut next = first + 1;
        while next < end && state.bit(&self.view, bitmap.offset(), next)? == own {
            next += 1;
        }
        let into = inside % self.sector;
        let len = ((next - first) * self.sector - into).min(extent.len);
        let at = offset.saturating_add(inside);
        if own && self.view.is_patched(at, len) {
            return Err(Error::corrupt("the log changes the content of the disk"));
        }
        let place = if own { Place::Data { device: self.view.device, offset: at } } else { Place::Unallocated };
        Ok(Extent { len, place, ..extent })
    }
}

fn unreadable() -> Error {
    Error::new(Kind::Io(EIO), "Input/output error")
}

impl State<'_> {
    /// Bit `sector` of the sector bitmap at `offset`.
    fn bit(&mut self, view: &View<'_>, offset: FileOffset, sector: u64) -> Result<bool> {
        let byte = (sector / 8).min(BITMAP_BLOCK - 1);
        let at = offset.saturating_add(byte - byte % BITMAP_PIECE);
        if self.bitmap.is_empty() || self.bitmap_at != at {
            self.bitmap = vec![0; BITMAP_PIECE as usize];
            self.bitmap_at = at;
            view.read_at(at, &mut self.bitmap).inspect_err(|_| self.bitmap.clear())?;
        }
        Ok(self.bitmap.get((byte % BITMAP_PIECE) as usize).is_some_and(|b| b & (1 << (sector % 8)) != 0))
    }
}
