//! Changing an image in place: a run that is cut leaves grains that nothing refers to at worst.
//!
//! Extents are plain, or in grains that are not compressed; each has its own part of the disk.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::levels::{LevelWriter, Levels};
use instar_image::write::{Piece, Placed, Target, Writer};
use instar_image::{Backing, DeviceId, EditContext, Editing, Editor, Error, Machine, OpenContext, Result, Step};
use spin::Mutex;

use crate::VmdkImage;
use crate::extent::{Content, Entries, Grains, Part};
use crate::layout::{SECTOR, ZERO_GRAIN};
use crate::text::{Text, cid_of};

/// Bytes of what is placed at once in a plain extent.
const PLAIN_UNIT: u64 = 1 << 16;

/// Opens them to be changed.
pub struct VmdkEditing;

impl Editing for VmdkEditing {
    fn can_rebase(&self) -> bool {
        true
    }

    fn rebase_is_extension(&self) -> bool {
        true
    }

    fn edit<'a>(&self, cx: EditContext<'a, '_>) -> Result<Box<dyn Editor + 'a>> {
        Ok(Box::new(VmdkEditor::open(&cx)?))
    }
}

/// How an extent takes what is placed.
enum Place<'a> {
    /// Byte offset in its device.
    Flat(DeviceId, u64),
    Grains(Box<LevelWriter<'a, 4>>),
}

/// An extent: its first byte in the disk, its length.
struct Region<'a> {
    start: u64,
    len: u64,
    place: Place<'a>,
}

/// See [`VmdkEditing`].
struct VmdkEditor<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    size: u64,
    /// Bytes of a grain.
    unit: u64,
    regions: Vec<Region<'a>>,
    text: Mutex<Text>,
    /// Once something was placed, the content is another one.
    takes_new_identity: bool,
    touched: Mutex<bool>,
    /// Identity of the parent that it is going to have.
    new_parent: Option<u32>,
}

impl<'a> VmdkEditor<'a> {
    fn open(cx: &EditContext<'a, '_>) -> Result<Self> {
        let EditContext { machine, device, .. } = *cx;
        let image = VmdkImage::open(&OpenContext { opener: Some(machine), ..OpenContext::of_edit(cx) })?;
        // Of a rebase it is not known yet.
        let backed = image.parent.is_some() || !cx.changes_content;
        let mut regions = Vec::new();
        let mut unit = 0;
        for extent in &image.extents {
            let Part { device, start, len, content } = extent.part;
            let place = match content {
                Content::Flat(offset) => Place::Flat(device, offset),
                Content::Grains(grains) => {
                    if unit != 0 && unit != grains.grain {
                        return Err(refuse("its extents have grains of different lengths"));
                    }
                    unit = grains.grain;
                    Place::Grains(Box::new(grains_of(machine, device, len, grains, backed)?))
                }
            };
            regions.push(Region { start, len, place });
        }
        let unit = if unit == 0 { PLAIN_UNIT } else { unit };
        let whole = |region: &Region<'_>| region.start.is_multiple_of(unit) || matches!(region.place, Place::Flat(..));
        if !regions.iter().all(whole) {
            return Err(refuse("an extent begins in the middle of a grain"));
        }
        Ok(Self {
            machine,
            device,
            size: image.size,
            unit,
            regions,
            text: Mutex::new(Text::read(machine.source(), device)?),
            takes_new_identity: cx.changes_content && !cx.keeps_identity,
            touched: Mutex::new(false),
            new_parent: cx.backing.map(|new| cid_of(machine.source(), new.open(cx)?)).transpose()?,
        })
    }

    fn barrier(&self) -> Result<()> {
        for region in &self.regions {
            if let Place::Flat(device, _) = region.place {
                self.machine.submit(&[Step::Barrier { device }])?;
            }
        }
        Ok(())
    }
}

fn refuse(why: &str) -> Error {
    Error::unsupported("Operation not supported").with_hint(why)
}

/// Byte offset of the grain that an entry is for.
pub fn plain(entry: u64) -> Option<u64> {
    (entry > u64::from(ZERO_GRAIN)).then_some(entry * SECTOR)
}

fn grains_of<'a>(
    machine: &'a dyn Machine,
    device: DeviceId,
    size: u64,
    grains: Grains,
    backed: bool,
) -> Result<LevelWriter<'a, 4>> {
    let Entries::Sectors { zeroes } = grains.entries else {
        return Err(refuse("seSparse extents are only read"));
    };
    if grains.compressed.is_some() {
        return Err(refuse("its grains are compressed"));
    }
    let levels = Levels {
        device,
        size,
        cluster: grains.grain,
        l1: grains.directory,
        copy: grains.second,
        l2_entries: grains.table,
        big_endian: false,
        table_first: true,
        room: (SECTOR, SECTOR),
        scale: SECTOR,
        plain,
        backed,
        zero: zeroes.then_some(u64::from(ZERO_GRAIN)),
    };
    let end = machine.stat(device)?.len.max(grains.overhead);
    LevelWriter::new(machine, levels, end)
}

impl Editor for VmdkEditor<'_> {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn set_backing(&self, backing: Option<&Backing>) -> Result<()> {
        self.finish()?;
        let mut text = self.text.lock();
        let parent = backing.map(|backing| &backing.name[..]).zip(self.new_parent);
        let words = text.with_parent(parent)?;
        text.replace(self.machine, self.device, &words)
    }
}

impl Writer for VmdkEditor<'_> {
    fn target(&self) -> Target {
        Target::Allocated { unit: self.unit, zero_unit: self.unit, zeroed: false }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let len = piece.disk_len().ok_or_else(|| refuse("no compressed grains are added"))?;
        *self.touched.lock() = true;
        let end = at.saturating_add(len).min(self.size);
        for region in &self.regions {
            let (first, last) = (region.start.max(at), region.start.saturating_add(region.len).min(end));
            if first >= last {
                continue;
            }
            // The end of the disk need not be the end of a grain: what is there beyond it goes along.
            let taken = if last == self.size { at.saturating_add(len) } else { last } - first;
            let Some(part) = piece.part(first - at, taken) else { continue };
            match &region.place {
                Place::Grains(grains) => grains.place(first - region.start, part, steps)?,
                Place::Flat(device, offset) => {
                    let to = offset.saturating_add(first - region.start);
                    steps.extend(part.step(0, last - first, *device, to).map(Placed::Step));
                }
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.regions.iter().any(|region| matches!(&region.place, Place::Grains(grains) if grains.is_full()))
    }

    fn settle(&self) -> Result<()> {
        self.barrier()?;
        for region in &self.regions {
            if let Place::Grains(grains) = &region.place {
                grains.settle()?;
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.settle()?;
        if self.takes_new_identity && core::mem::take(&mut *self.touched.lock()) {
            let [a, b, c, d, ..] = self.machine.random_id();
            let mut text = self.text.lock();
            let words = text.with_cid(u32::from_le_bytes([a, b, c, d]))?;
            text.replace(self.machine, self.device, &words)?;
        }
        Ok(())
    }
}
