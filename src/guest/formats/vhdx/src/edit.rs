//! Changing an image in place. The headers get new identifiers first, so that whoever knew the disk sees that it changes; then
//! bytes go to new blocks behind the end of the file, and at last entries refer to them, each in one sector. The log is not
//! needed for that, and stays empty: of a run that is cut there are blocks that nothing refers to at worst.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::pieces::{Pieces, Span};
use instar_image::write::{Piece, Placed, Target, Writer};
use instar_image::{DeviceId, EditContext, Editing, Editor, Error, Machine, OpenContext, Result, Step};
use spin::Mutex;

use crate::VhdxImage;
use crate::bat::{Entry, Geometry, verify};
use crate::error::invalid;
use crate::header::Header;
use crate::layout::{ALIGNMENT, state};

/// Bytes in which zeroes are left out of a block.
const PAGE: u64 = 4096;
/// Entries that may wait.
const WAITING_MAX: usize = 1 << 16;

/// Opens them to be changed.
pub struct VhdxEditing;

impl Editing for VhdxEditing {
    fn edit<'a>(&self, cx: EditContext<'a, '_>) -> Result<Box<dyn Editor + 'a>> {
        let opened = OpenContext::of_edit(&cx);
        let image = open(&opened)?;
        if image.geometry.differencing {
            return Err(refuse("it is a differencing disk"));
        }
        let (machine, device) = (cx.machine, cx.device);
        let end = machine.stat(device)?.len.checked_next_multiple_of(ALIGNMENT);
        let end = end.ok_or_else(|| Error::limit("the file gets too large"))?;
        let pieces = Pieces::new(machine.source(), device);
        let state = State { pieces, added: BTreeMap::new(), end, old: Some(Header::read(&opened)?) };
        Ok(Box::new(VhdxEditor { machine, device, geometry: image.geometry, state: Mutex::new(state) }))
    }
}

/// Opens an image that is going to be written to.
pub fn open<'a>(cx: &OpenContext<'a, '_>) -> Result<VhdxImage<'a>> {
    let image = crate::open(cx)?;
    verify(&image.view, &image.geometry, &image.regions, &mut |text| Err(invalid(cx).after(text)))?;
    if image.view.log.dirty {
        return Err(refuse("it was not closed: qemu-img check -r all replays its log"));
    }
    Ok(image)
}

/// The image is of a kind that is only read.
pub fn refuse(why: &str) -> Error {
    Error::unsupported("writing into this image is not supported").with_hint(why)
}

struct VhdxEditor<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    geometry: Geometry,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    pieces: Pieces<'a, 8>,
    /// New blocks: number of the entry to byte offset.
    added: BTreeMap<u64, u64>,
    /// Where the next block is to be.
    end: u64,
    /// The header, until it is renewed.
    old: Option<Header>,
}

impl<'a> VhdxEditor<'a> {
    /// See [`Header::renew`].
    fn renew(&self, state: &mut State<'a>) -> Result<()> {
        state.old.take().map_or(Ok(()), |old| old.renew(self.machine, self.device, true))
    }

    /// Byte offset of a block that there is.
    fn find(&self, state: &mut State<'a>, index: u64) -> Result<Option<u64>> {
        if let Some(offset) = state.added.get(&index) {
            return Ok(Some(*offset));
        }
        let table = Span { offset: self.geometry.bat, count: self.geometry.entries() };
        let entry = state.pieces.entry(table, index)?.map(u64::from_le_bytes).map(Entry);
        let entry = entry.ok_or_else(|| Error::corrupt("a block behind the end of the table"))?;
        Ok((entry.state() == state::FULLY_PRESENT).then(|| entry.offset()))
    }
}

impl Editor for VhdxEditor<'_> {
    fn virtual_size(&self) -> u64 {
        self.geometry.size
    }
}

impl Writer for VhdxEditor<'_> {
    fn target(&self) -> Target {
        Target::Allocated { unit: PAGE, zero_unit: PAGE, zeroed: false }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let state = &mut *self.state.lock();
        self.renew(state)?;
        let Geometry { size, block, .. } = self.geometry;
        let is_zero = matches!(piece, Piece::Zero(_));
        piece.spread((at, size), block, self.device, steps, |number| {
            let index = self.geometry.payload(number);
            if let Some(offset) = self.find(state, index)? {
                return Ok(Some(offset));
            }
            // What has no block reads as zeroes.
            if is_zero {
                return Ok(None);
            }
            let offset = state.end;
            state.end = offset.checked_add(block).ok_or_else(|| Error::limit("the file gets too large"))?;
            state.added.insert(index, offset);
            Ok(Some(offset))
        })
    }

    fn is_full(&self) -> bool {
        self.state.lock().added.len() >= WAITING_MAX
    }

    fn settle(&self) -> Result<()> {
        let state = &mut *self.state.lock();
        let device = self.device;
        let barrier = Step::Barrier { device };
        if state.added.is_empty() {
            return self.machine.submit(&[barrier]);
        }
        let entries: Vec<(u64, [u8; 8])> =
            state.added.iter().map(|(index, offset)| (*index, (offset | state::FULLY_PRESENT).to_le_bytes())).collect();
        let mut steps = vec![Step::SetLength { device, len: state.end }, barrier];
        steps.extend(entries.iter().map(|(index, data)| Step::Write {
            device,
            offset: self.geometry.bat + index * 8,
            data,
        }));
        steps.push(barrier);
        self.machine.submit(&steps)?;
        state.added.clear();
        state.pieces.forget();
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.settle()
    }
}
