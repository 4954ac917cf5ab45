//! Changing an image in place. The headers get new identifiers first, so that whoever knew the disk sees that it changes; then
//! bytes go to new blocks behind the end of the file, and at last entries refer to them, each in one sector. Of a child, bits
//! of the sectors that are its own come between. The log is not needed for that, and stays empty: of a run that is cut there
//! are blocks that nothing refers to at worst.

mod bits;
mod parent;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use instar_image::sealed::Placed;
use instar_image::table::{Span, TableCache};
use instar_image::write::{Piece, Target, Writer};
use instar_image::{
    Backing, Changes, DeviceId, Editor, Error, Extent, FileOffset, Machine, NewBacking, Place, Rebasing, Result, Spot,
    Step,
};
use spin::Mutex;

use crate::VhdxImage;
use crate::bat::{Entry, Geometry};
use crate::header::{Header, identity};
use crate::layout::{ALIGNMENT, BITMAP_BLOCK, state};
use crate::regions::Range;
use bits::Bits;

/// Bytes in which zeroes are left out of a block.
const PAGE: u64 = 4096;
/// Entries that may wait.
const WAITING_MAX: usize = 1 << 16;

/// The image is of a kind that is only read.
pub fn refuse(why: &str) -> Error {
    Error::unsupported("writing into this image is not supported").with_hint(why)
}

/// An image that is being changed.
pub struct VhdxEditor<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    geometry: Geometry,
    /// The metadata region.
    metadata: Range,
    /// Children know the disk by an identifier that changes with its content.
    changes_identity: bool,
    /// What the parent is known by that it is going to have.
    linkage: Option<[u8; 16]>,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    pieces: TableCache<'a, 8>,
    /// New entries by their numbers.
    added: BTreeMap<u64, u64>,
    /// Sector bitmaps.
    bits: Bits<'a>,
    /// Where the next block is to be.
    end: FileOffset,
    /// The header, until it is renewed.
    old: Option<Header>,
}

impl State<'_> {
    /// Where a new block of `len` bytes is.
    fn take(&mut self, len: u64) -> Result<FileOffset> {
        let offset = self.end;
        self.end = offset.checked_add(len).ok_or_else(|| Error::limit("the file gets too large"))?;
        Ok(offset)
    }
}

impl<'a> VhdxEditor<'a> {
    /// Reads nothing that is not known of the image.
    pub fn open(image: &VhdxImage<'a>, changes: &Changes<'_>) -> Result<Self> {
        let (machine, device) = (image.writable()?, image.view.device);
        if changes.backing.is_some() && !image.geometry.differencing {
            return Err(refuse("it has no parent: convert -B makes an image that has one"));
        }
        let end = machine.stat(device)?.end().checked_next_multiple_of(ALIGNMENT);
        let end = end.ok_or_else(|| Error::limit("the file gets too large"))?;
        let pieces = TableCache::new(machine.source(), device);
        let bits = Bits::new(machine, device, image.metadata.sector);
        let state = State { pieces, added: BTreeMap::new(), bits, end, old: Some(image.header.clone()) };
        let linkage = |new: NewBacking<'_>| identity(machine, new.open(machine, device)?, image.version);
        Ok(Self {
            machine,
            device,
            geometry: image.geometry,
            metadata: image.regions.metadata,
            changes_identity: changes.content && !changes.keeps_identity,
            linkage: changes.backing.map(linkage).transpose()?,
            state: Mutex::new(state),
        })
    }

    /// See [`instar_image::Image::extent`]: a block at a time.
    pub fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let Geometry { size, block, differencing, .. } = self.geometry;
        let inside = at % block;
        let left = size.saturating_sub(at).min(max).min(block - inside);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let state = &mut *self.state.lock();
        let entry = self.entry(state, self.geometry.payload(at / block))?;
        let data = Place::Data { device: self.device, offset: entry.offset().saturating_add(inside) };
        let (len, place) = match entry.state() {
            state::FULLY_PRESENT => (left, data),
            state::PARTIALLY_PRESENT if differencing => {
                let (own, len) = self.sectors(state, at, left)?;
                (len, if own { data } else { Place::Unallocated })
            }
            state::NOT_PRESENT if differencing => (left, Place::Unallocated),
            _ => (left, Place::Zero { at: None }),
        };
        Ok(Extent { at, len, place })
    }

    /// Whether byte `at` of a block that is partly the parent's is the child's, and for how many of the `left` bytes that
    /// stays.
    fn sectors(&self, state: &mut State<'a>, at: u64, left: u64) -> Result<(bool, u64)> {
        let Geometry { block, ratio, .. } = self.geometry;
        let index = self.geometry.bitmap(at / block);
        let bitmap = self.entry(state, index)?;
        if bitmap.state() != state::FULLY_PRESENT {
            return Err(Error::corrupt("a block is partly present and has no sector bitmap"));
        }
        let base = at % (ratio * block);
        state.bits.run(bitmap.offset(), state.added.contains_key(&index), (base, base + left))
    }

    /// See [`Header::renew`].
    fn renew(&self, state: &mut State<'a>) -> Result<()> {
        state.old.take().map_or(Ok(()), |old| old.renew(self.machine, self.device, self.changes_identity))
    }

    /// The entry of that number, as it is going to be.
    fn entry(&self, state: &mut State<'a>, index: u64) -> Result<Entry> {
        if let Some(entry) = state.added.get(&index) {
            return Ok(Entry(*entry));
        }
        let table = Span { offset: self.geometry.bat, count: self.geometry.entries() };
        let entry = state.pieces.entry(table, index)?.map(u64::from_le_bytes).map(Entry);
        entry.ok_or_else(|| Error::corrupt("a block behind the end of the table"))
    }

    /// Makes the sectors of the disk from byte `from` to byte `to`, all of block `number`, the child's own. `is_new`: no
    /// others of the block are.
    fn mark(&self, state: &mut State<'a>, number: u64, (from, to): (u64, u64), is_new: bool) -> Result<()> {
        let Geometry { block, ratio, .. } = self.geometry;
        let index = self.geometry.bitmap(number);
        let bitmap = self.entry(state, index)?;
        let offset = if bitmap.state() == state::FULLY_PRESENT {
            bitmap.offset()
        } else {
            let offset = state.take(BITMAP_BLOCK)?;
            state.added.insert(index, Entry::at(offset, state::FULLY_PRESENT).0);
            offset
        };
        let fresh = state.added.contains_key(&index);
        let base = (number % ratio) * block;
        let start = number * block;
        if is_new {
            state.bits.set(offset, fresh, (base, base + block), false)?;
        }
        state.bits.set(offset, fresh, (base + (from - start), base + (to - start)), true)
    }

    /// Writes the entries of `added` that are of bitmaps, or those that are not; what is before is stable then.
    fn write_entries(&self, added: &BTreeMap<u64, u64>, bitmaps: bool) -> Result<()> {
        let device = self.device;
        let mut steps = Vec::from([Step::Barrier { device }]);
        let wanted = added.iter().filter(|(index, _)| self.geometry.is_bitmap(**index) == bitmaps);
        let entries: Vec<(u64, [u8; 8])> = wanted.map(|(index, entry)| (*index, entry.to_le_bytes())).collect();
        steps.extend(entries.iter().map(|(index, data)| Step::Write {
            device,
            offset: self.geometry.bat + index * 8,
            data,
        }));
        self.machine.submit(&steps)
    }
}

impl Editor for VhdxEditor<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        let found = self.extent(at, max)?;
        let Place::Data { device, offset } = found.place else { return Ok(None) };
        self.renew(&mut self.state.lock())?;
        Ok(Some(Spot { device, offset, len: found.len }))
    }

    fn rebasing(&self) -> Option<&dyn Rebasing> {
        Some(self)
    }
}

impl Rebasing for VhdxEditor<'_> {
    fn set_backing(&self, backing: Option<&Backing>) -> Result<()> {
        self.finish()?;
        if !self.geometry.differencing {
            // It has none, and another one was refused.
            return Ok(());
        }
        self.renew(&mut self.state.lock())?;
        match (backing, self.linkage) {
            (Some(backing), Some(linkage)) => self.name_parent(backing, &linkage),
            _ => self.leave_parent(),
        }
    }
}

impl Writer for VhdxEditor<'_> {
    fn target(&self) -> Target {
        Target::Allocated { unit: PAGE, zero_unit: PAGE, zeroed: false }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let state = &mut *self.state.lock();
        self.renew(state)?;
        let Geometry { size, block, differencing, .. } = self.geometry;
        let is_zero = matches!(piece, Piece::Zero(_));
        let end = at.saturating_add(piece.disk_len().unwrap_or(0)).min(size);
        piece.spread((at, size), block, self.device, steps, |number| {
            let index = self.geometry.payload(number);
            let found = self.entry(state, index)?;
            let start = number * block;
            let part = (start.max(at), end.min(start + block));
            match found.state() {
                state::FULLY_PRESENT => return Ok(Some(found.offset())),
                state::PARTIALLY_PRESENT if differencing => {
                    self.mark(state, number, part, false)?;
                    return Ok(Some(found.offset()));
                }
                _ => {}
            }
            let shows_parent = differencing && found.state() == state::NOT_PRESENT;
            // What has neither a block nor a parent reads as zeroes.
            if is_zero && !shows_parent {
                return Ok(None);
            }
            let offset = state.take(block)?;
            let whole = part == (start, size.min(start + block));
            let present = if shows_parent && !whole { state::PARTIALLY_PRESENT } else { state::FULLY_PRESENT };
            if present == state::PARTIALLY_PRESENT {
                self.mark(state, number, part, true)?;
            }
            state.added.insert(index, Entry::at(offset, present).0);
            Ok(Some(offset))
        })
    }

    fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.added.len() >= WAITING_MAX || state.bits.is_full()
    }

    fn settle(&self) -> Result<()> {
        let state = &mut *self.state.lock();
        let device = self.device;
        let barrier = Step::Barrier { device };
        if state.added.is_empty() {
            // Nothing was appended.
            self.machine.submit(&[barrier])?;
        } else {
            self.machine.submit(&[Step::SetLength { device, len: state.end.get() }, barrier])?;
        }
        state.bits.write()?;
        if !state.added.is_empty() {
            // A block that is partly there must have its bitmap.
            self.write_entries(&state.added, true)?;
            self.write_entries(&state.added, false)?;
            self.machine.submit(&[barrier])?;
        }
        for (index, entry) in core::mem::take(&mut state.added) {
            state.pieces.wrote(self.geometry.bat + index * 8, &entry.to_le_bytes());
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.settle()
    }
}
