//! Changing an image in place. The copy of the footer at the beginning counts: the one at the end, which makes room for new
//! blocks, is written behind them before anything refers to them. Of a run that is cut the footer at the end may be
//! missing, and there may be blocks that nothing refers to.

mod parent;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, btree_map};
use alloc::vec;
use alloc::vec::Vec;

use instar_image::fixed::FixedEditor;
use instar_image::sealed::Placed;
use instar_image::table::{Span, TableCache};
use instar_image::write::{Piece, Target, Writer};
use instar_image::{
    Backing, Changes, DeviceId, Editor, Error, Extent, FileOffset, Machine, NewBacking, Place, Rebasing, Result, Spot,
    Step,
};
use spin::Mutex;

use crate::VpcImage;
use crate::header::{Dynamic, Footer, Kind};
use crate::layout::{COOKIE, FOOTER, SECTOR, UNUSED, bitmap_len, block_at};
use crate::map::{Bitmaps, end_of_blocks, run_in};
use crate::write::encode::{Identity, identity};

/// Bytes in which zeroes are left out of a block.
const PAGE: u64 = 4096;
/// Bytes of bitmaps and entries that may wait.
const WAITING_MAX: usize = 4 << 20;

/// An image that is being changed.
pub enum VpcEditor<'a> {
    Fixed(Fixed<'a>),
    Blocks(Box<BlockEditor<'a>>),
}

impl<'a> VpcEditor<'a> {
    /// Reads what has to be known of the image.
    pub fn open(image: &VpcImage<'a>, changes: &Changes<'_>) -> Result<Self> {
        let (machine, device, footer) = (image.purpose.machine()?, image.device, &image.footer);
        if changes.backing.is_some() && footer.kind != Kind::Differencing {
            return Err(Error::unsupported("Operation not supported")
                .with_hint("it has no parent: convert -B makes an image that has one"));
        }
        if footer.kind == Kind::Fixed && !footer.at_start {
            return Ok(Self::Fixed(Fixed(FixedEditor { machine, device, base: FileOffset::ZERO })));
        }
        let (true, Some(header)) = (footer.at_start, &image.dynamic) else {
            return Err(Error::corrupt("the copy of the footer at the start is damaged"));
        };
        let parent = |new: NewBacking<'_>| identity(machine, new.open(machine, device)?);
        let parent = changes.backing.map(parent).transpose()?;
        Ok(Self::Blocks(Box::new(BlockEditor::new(machine, device, footer.clone(), header, parent)?)))
    }

    pub fn as_editor(&self) -> &dyn Editor {
        match self {
            Self::Fixed(editor) => editor,
            Self::Blocks(editor) => editor.as_ref(),
        }
    }
}

/// A fixed disk: it has no parent, and another one was refused.
pub struct Fixed<'a>(FixedEditor<'a>);

impl Rebasing for Fixed<'_> {
    fn set_backing(&self, _backing: Option<&Backing>) -> Result<()> {
        Ok(())
    }
}

impl Editor for Fixed<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        self.0.own(at, max)
    }

    fn rebasing(&self) -> Option<&dyn Rebasing> {
        Some(self)
    }
}

impl Writer for Fixed<'_> {
    fn target(&self) -> Target {
        self.0.target()
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        self.0.place(at, piece, steps)
    }

    fn settle(&self) -> Result<()> {
        self.0.settle()
    }

    fn finish(&self) -> Result<()> {
        self.0.finish()
    }
}

/// Where the footer at the end is, or is to be: whatever else is in the file lies before it.
pub fn end_of_file(machine: &dyn Machine, device: DeviceId, header: &Dynamic) -> Result<FileOffset> {
    let source = machine.source();
    let file_end = source.stat(device)?.end().next_multiple_of(SECTOR);
    let mut tail = [0; FOOTER];
    source.read(device, file_end.saturating_sub(SECTOR), &mut tail)?;
    let blocks_end = end_of_blocks(source, device, header)?;
    if blocks_end > file_end {
        return Err(Error::corrupt("blocks lie outside the file: the image was truncated"));
    }
    Ok(if tail.starts_with(COOKIE) { file_end - SECTOR } else { file_end }.max(blocks_end))
}

/// A dynamic or differencing disk.
pub struct BlockEditor<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    footer: Footer,
    /// Bytes of a block.
    block: u64,
    table: Span,
    differencing: bool,
    /// Identifier and time of the parent that it is going to have.
    parent: Option<Identity>,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    pieces: TableCache<'a, 4>,
    /// New blocks: number to offset.
    added: BTreeMap<u64, FileOffset>,
    /// Bitmaps that have changed: offset to bytes.
    bitmaps: BTreeMap<FileOffset, Vec<u8>>,
    /// Those that have not.
    stored: Bitmaps<'a>,
    /// Where the next block, or the footer, is to be.
    end: FileOffset,
}

impl<'a> BlockEditor<'a> {
    fn new(
        machine: &'a dyn Machine,
        device: DeviceId,
        footer: Footer,
        header: &Dynamic,
        parent: Option<Identity>,
    ) -> Result<Self> {
        let end = end_of_file(machine, device, header)?;
        let pieces = TableCache::new(machine.source(), device);
        let stored = Bitmaps::new(machine.source(), device, header.block);
        let state = State { pieces, added: BTreeMap::new(), bitmaps: BTreeMap::new(), stored, end };
        Ok(Self {
            machine,
            device,
            block: header.block,
            table: Span { offset: header.table, count: header.entries },
            differencing: footer.kind == Kind::Differencing,
            footer,
            parent,
            state: Mutex::new(state),
        })
    }

    /// See [`instar_image::Image::extent`]: a block at a time.
    pub fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let inside = at % self.block;
        let left = self.footer.size.saturating_sub(at).min(max).min(self.block - inside);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let state = &mut *self.state.lock();
        let Some(bitmap) = self.find(state, at / self.block)? else {
            let place = if self.differencing { Place::Unallocated } else { Place::Zero { at: None } };
            return Ok(Extent { at, len: left, place });
        };
        let offset = bitmap + bitmap_len(self.block) + inside;
        let (own, len) = match state.bitmaps.get(&bitmap) {
            _ if !self.differencing => (true, left),
            Some(bits) => run_in(bits, self.block, inside),
            None => state.stored.run(offset, inside)?,
        };
        let place = if own { Place::Data { device: self.device, offset } } else { Place::Unallocated };
        Ok(Extent { at, len: len.min(left), place })
    }

    /// Where the bitmap of a block is that there is.
    fn find(&self, state: &mut State<'a>, number: u64) -> Result<Option<FileOffset>> {
        if let Some(offset) = state.added.get(&number) {
            return Ok(Some(*offset));
        }
        let entry = state.pieces.entry(self.table, number)?;
        let entry = entry.ok_or_else(|| Error::corrupt("a block behind the end of the table"))?;
        let entry = u32::from_be_bytes(entry);
        Ok((entry != UNUSED).then(|| block_at(entry)))
    }

    /// The bitmap at `offset`, to be changed. Those of dynamic disks say that every sector is there, as QEMU has it.
    fn bitmap<'s>(&self, state: &'s mut State<'a>, offset: FileOffset, is_new: bool) -> Result<&'s mut Vec<u8>> {
        let len = usize::try_from(bitmap_len(self.block)).unwrap_or_default();
        Ok(match state.bitmaps.entry(offset) {
            btree_map::Entry::Occupied(held) => held.into_mut(),
            btree_map::Entry::Vacant(place) => {
                let mut bits = vec![if self.differencing { 0 } else { 0xff }; len];
                if self.differencing && !is_new {
                    self.machine.read(self.device, offset, &mut bits)?;
                }
                place.insert(bits)
            }
        })
    }

    /// Makes the sectors of the disk from byte `from` to byte `end`, all of one block, the child's own.
    fn mark(&self, state: &mut State<'a>, offset: FileOffset, from: u64, end: u64, is_new: bool) -> Result<()> {
        let differencing = self.differencing;
        let bits = self.bitmap(state, offset, is_new)?;
        if differencing {
            let base = from % self.block;
            for sector in base / SECTOR..(base + (end - from)).div_ceil(SECTOR) {
                if let Some(byte) = usize::try_from(sector / 8).ok().and_then(|i| bits.get_mut(i)) {
                    *byte |= 0x80 >> (sector % 8);
                }
            }
        }
        Ok(())
    }
}

impl Editor for BlockEditor<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        let found = self.extent(at, max)?;
        let Place::Data { device, offset } = found.place else { return Ok(None) };
        Ok(Some(Spot { device, offset, len: found.len }))
    }

    fn rebasing(&self) -> Option<&dyn Rebasing> {
        Some(self)
    }
}

impl Rebasing for BlockEditor<'_> {
    fn set_backing(&self, backing: Option<&Backing>) -> Result<()> {
        self.finish()?;
        match (backing, self.parent) {
            (Some(backing), Some(identity)) => self.name_parent(backing, identity),
            (None, _) if self.differencing => self.leave_parent(),
            _ => Ok(()),
        }
    }
}

impl Writer for BlockEditor<'_> {
    fn target(&self) -> Target {
        let unit = if self.block.is_multiple_of(PAGE) { PAGE } else { SECTOR };
        Target::Allocated { unit, zero_unit: unit, zeroed: false }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let state = &mut *self.state.lock();
        let end = at.saturating_add(piece.disk_len().unwrap_or(0)).min(self.footer.size);
        let needs_block = self.differencing || !matches!(piece, Piece::Zero(_));
        let bitmap = bitmap_len(self.block);
        piece.spread((at, self.footer.size), self.block, self.device, steps, |number| {
            let found = self.find(state, number)?;
            let offset = match found {
                Some(offset) => offset,
                None if !needs_block => return Ok(None),
                None => {
                    let offset = state.end;
                    if offset / SECTOR >= UNUSED.into() {
                        return Err(Error::limit("the file gets too large"));
                    }
                    state.end = offset + bitmap + self.block;
                    state.added.insert(number, offset);
                    offset
                }
            };
            let start = number * self.block;
            self.mark(state, offset, start.max(at), (start + self.block).min(end), found.is_none())?;
            Ok(Some(offset + bitmap))
        })
    }

    fn is_full(&self) -> bool {
        let state = self.state.lock();
        let bitmap = usize::try_from(bitmap_len(self.block)).unwrap_or(WAITING_MAX);
        state.bitmaps.len().saturating_mul(bitmap).saturating_add(state.added.len() * 32) >= WAITING_MAX
    }

    fn settle(&self) -> Result<()> {
        let state = &mut *self.state.lock();
        let (machine, device) = (self.machine, self.device);
        let barrier = Step::Barrier { device };
        let mut steps = vec![barrier];
        steps.extend(state.bitmaps.iter().map(|(offset, data)| Step::Write { device, offset: *offset, data }));
        if !state.added.is_empty() {
            steps.push(Step::SetLength { device, len: (state.end + SECTOR).get() });
            steps.push(Step::Write { device, offset: state.end, data: &self.footer.bytes });
        }
        steps.push(barrier);
        let entries: Vec<(u64, [u8; 4])> =
            state.added.iter().map(|(n, offset)| (*n, ((*offset / SECTOR) as u32).to_be_bytes())).collect();
        steps.extend(entries.iter().map(|(number, data)| Step::Write {
            device,
            offset: self.table.offset + number * 4,
            data,
        }));
        if !entries.is_empty() {
            steps.push(barrier);
        }
        machine.submit(&steps)?;
        state.added.clear();
        state.bitmaps.clear();
        state.stored.forget();
        entries.iter().for_each(|(number, data)| state.pieces.wrote(self.table.offset + number * 4, data));
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.settle()
    }
}
