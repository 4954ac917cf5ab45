//! Changing an image in place: a run that is cut leaves grains that nothing refers to at worst.
//!
//! Extents are plain, or in grains that are not compressed; each has its own part of the disk.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::levels::{LevelWriter, Levels};
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{Backing, Changes, DeviceId, Editor, Error, Machine, NewBacking, Rebasing, Result, Spot};
use spin::Mutex;

use crate::VmdkImage;
use crate::extent::{Content, Entries, Grains, Part};
use crate::layout::ZERO_GRAIN;
use crate::regions::{Place, Region, Regions, TABLES};
use crate::text::{Text, cid_of};

/// Bytes of what is placed at once in a plain extent.
const PLAIN_UNIT: u64 = 1 << 16;

/// An image that is being changed.
pub struct VmdkEditor<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    /// Bytes of a grain.
    unit: u64,
    /// The extents.
    pub regions: Regions<'a>,
    text: Mutex<Text>,
    /// Once something was placed, the content is another one.
    takes_new_identity: bool,
    touched: Mutex<bool>,
    /// Identity of the parent that it is going to have.
    new_parent: Option<u32>,
}

impl<'a> VmdkEditor<'a> {
    /// Refuses an image that not all of can be written.
    pub fn open(image: &VmdkImage<'a>, changes: &Changes<'_>) -> Result<Self> {
        let (machine, device) = (image.purpose.machine()?, image.device);
        // Of a rebase it is not known yet.
        let backed = image.parent.is_some() || !changes.content;
        let mut regions = Vec::new();
        let mut unit = 0;
        for extent in &image.extents {
            let Part { device, start, len, content } = extent.part;
            if extent.read_only {
                return Err(refuse("an extent of it is only to be read"));
            }
            let place = match content {
                Content::Zero => return Err(refuse("an extent of it is zeroes and cannot hold anything else")),
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
        let new_parent = |new: NewBacking<'_>| cid_of(machine.source(), new.open(machine, device)?);
        Ok(Self {
            machine,
            device,
            unit,
            regions: Regions::new(machine, image.size, regions),
            text: Mutex::new(Text::read(machine.source(), device)?),
            takes_new_identity: changes.content && !changes.keeps_identity,
            touched: Mutex::new(false),
            new_parent: changes.backing.map(new_parent).transpose()?,
        })
    }
}

fn refuse(why: &str) -> Error {
    Error::unsupported("Operation not supported").with_hint(why)
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
        backed,
        zero: zeroes.then_some(u64::from(ZERO_GRAIN)),
        ..TABLES
    };
    let end = machine.stat(device)?.end().max(grains.overhead);
    LevelWriter::new(machine, levels, end)
}

impl Editor for VmdkEditor<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        let found = self.regions.own(at, max)?;
        *self.touched.lock() |= found.is_some();
        Ok(found)
    }

    fn rebasing(&self) -> Option<&dyn Rebasing> {
        Some(self)
    }
}

impl Rebasing for VmdkEditor<'_> {
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
        *self.touched.lock() = true;
        self.regions.place(at, piece, steps)
    }

    fn is_full(&self) -> bool {
        self.regions.is_full()
    }

    fn settle(&self) -> Result<()> {
        self.regions.settle()
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
