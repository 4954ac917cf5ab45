//! Changing an image in place. The copy of the footer at the beginning counts: the one at the end, which makes room for new
//! blocks, is written behind them before anything refers to them. Of a run that is cut the footer at the end may be
//! missing, and there may be blocks that nothing refers to.

mod parent;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, btree_map};
use alloc::vec;
use alloc::vec::Vec;

use instar_image::options::check_driver_options;
use instar_image::sealed::Placed;
use instar_image::table::{Span, TableCache};
use instar_image::write::{Piece, Target, Writer};
use instar_image::{Backing, DeviceId, EditContext, Editing, Editor, Error, Machine, OpenContext, Result, Step};
use spin::Mutex;

use crate::header::{Dynamic, Footer, Kind};
use crate::layout::{COOKIE, FOOTER, SECTOR, UNUSED, bitmap_len};
use crate::map::end_of_blocks;
use crate::write::encode::{Identity, identity};

/// Bytes in which zeroes are left out of a block.
const PAGE: u64 = 4096;
/// Bytes of bitmaps and entries that may wait.
const WAITING_MAX: usize = 4 << 20;

/// Opens them to be changed.
pub struct VpcEditing;

impl Editing for VpcEditing {
    fn can_rebase(&self) -> bool {
        true
    }

    fn edit<'a>(&self, cx: EditContext<'a, '_>) -> Result<Box<dyn Editor + 'a>> {
        check_driver_options("vpc", cx.options, &["force_size_calc"])?;
        let opened = OpenContext::of_edit(&cx);
        let footer = Footer::read(&opened)?;
        if cx.backing.is_some() && footer.kind != Kind::Differencing {
            return Err(Error::unsupported("Operation not supported")
                .with_hint("it has no parent: convert -B makes an image that has one"));
        }
        if footer.kind == Kind::Fixed && !footer.at_start {
            return Ok(Box::new(FixedEditor { machine: cx.machine, device: cx.device, size: footer.size }));
        }
        if !footer.at_start {
            return Err(Error::corrupt("the copy of the footer at the start is damaged"));
        }
        let header = Dynamic::read(&opened, &footer)?;
        let parent = cx.backing.map(|new| identity(cx.machine, new.open(&cx)?)).transpose()?;
        Ok(Box::new(BlockEditor::new(cx.machine, cx.device, footer, &header, parent)?))
    }
}

/// A fixed disk: every byte has its place.
struct FixedEditor<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    size: u64,
}

impl Editor for FixedEditor<'_> {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn set_backing(&self, _backing: Option<&Backing>) -> Result<()> {
        // It has none, and another one was refused.
        Ok(())
    }
}

impl Writer for FixedEditor<'_> {
    fn target(&self) -> Target {
        Target::Linear { device: self.device, base: 0, zeroed: false }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the bytes of a fixed disk have their places"))
    }

    fn settle(&self) -> Result<()> {
        self.machine.submit(&[Step::Barrier { device: self.device }])
    }

    fn finish(&self) -> Result<()> {
        self.settle()
    }
}

/// Where the footer at the end is, or is to be: whatever else is in the file lies before it.
pub fn end_of_file(machine: &dyn Machine, device: DeviceId, header: &Dynamic) -> Result<u64> {
    let source = machine.source();
    let len = source.stat(device)?.len.next_multiple_of(SECTOR);
    let mut tail = [0; FOOTER];
    source.read(device, len.saturating_sub(SECTOR), &mut tail)?;
    let blocks_end = end_of_blocks(source, device, header)?;
    if blocks_end > len {
        return Err(Error::corrupt("blocks lie outside the file: the image was truncated"));
    }
    Ok(if tail.starts_with(COOKIE) { len - SECTOR } else { len }.max(blocks_end))
}

/// A dynamic or differencing disk.
struct BlockEditor<'a> {
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
    /// New blocks: number to byte offset.
    added: BTreeMap<u64, u64>,
    /// Bitmaps that have changed: byte offset to bytes.
    bitmaps: BTreeMap<u64, Vec<u8>>,
    /// Where the next block, or the footer, is to be.
    end: u64,
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
        let state = State { pieces, added: BTreeMap::new(), bitmaps: BTreeMap::new(), end };
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

    /// Byte offset of the bitmap of a block that there is.
    fn find(&self, state: &mut State<'a>, number: u64) -> Result<Option<u64>> {
        if let Some(offset) = state.added.get(&number) {
            return Ok(Some(*offset));
        }
        let entry = state.pieces.entry(self.table, number)?;
        let entry = entry.ok_or_else(|| Error::corrupt("a block behind the end of the table"))?;
        let entry = u32::from_be_bytes(entry);
        Ok((entry != UNUSED).then(|| u64::from(entry) * SECTOR))
    }

    /// The bitmap at `offset`, to be changed. Those of dynamic disks say that every sector is there, as QEMU has it.
    fn bitmap<'s>(&self, state: &'s mut State<'a>, offset: u64, is_new: bool) -> Result<&'s mut Vec<u8>> {
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
    fn mark(&self, state: &mut State<'a>, offset: u64, from: u64, end: u64, is_new: bool) -> Result<()> {
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
    fn virtual_size(&self) -> u64 {
        self.footer.size
    }

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
            steps.push(Step::SetLength { device, len: state.end + SECTOR });
            steps.push(Step::Write { device, offset: state.end, data: &self.footer.bytes });
        }
        steps.push(barrier);
        let entries: Vec<(u64, [u8; 4])> =
            state.added.iter().map(|(n, offset)| (*n, ((offset / SECTOR) as u32).to_be_bytes())).collect();
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
        state.pieces.forget();
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.settle()
    }
}
