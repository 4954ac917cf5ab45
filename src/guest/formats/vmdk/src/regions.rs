//! The extents of an image that is written, each with its own part of the disk: plain, or in grains that are not compressed.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::levels::{self, LevelWriter, Levels};
use instar_image::runs::RunMap;
use instar_image::sealed::Placed;
use instar_image::table::Span;
use instar_image::write::Piece;
use instar_image::{DeviceId, Error, Extent, FileOffset, Machine, Result, Spot, Step, extent};

use crate::layout::{SECTOR, ZERO_GRAIN, sector_at};

/// What the tables of all extents in grains have in common. Where they are and how long, each says for itself.
pub const TABLES: Levels = Levels {
    device: DeviceId(0),
    size: 0,
    cluster: 0,
    l1: Span { offset: FileOffset::ZERO, count: 0 },
    copy: None,
    l2_entries: 0,
    big_endian: false,
    table_first: true,
    room: (FileOffset::new(SECTOR), SECTOR),
    scale: SECTOR,
    plain,
    backed: false,
    zero: None,
};

/// Where the grain is that an entry is for.
fn plain(entry: u64) -> Option<FileOffset> {
    (entry > u64::from(ZERO_GRAIN)).then_some(sector_at(entry))
}

/// What entries mean.
struct Entries<'l>(&'l Levels);

impl levels::Entries for Entries<'_> {
    fn place(&self, entry: u64) -> Result<extent::Place> {
        Ok(match entry {
            0 => extent::Place::Unallocated,
            _ if Some(entry) == self.0.zero => extent::Place::Zero { at: None },
            _ => extent::Place::Data { device: self.0.device, offset: sector_at(entry) },
        })
    }
}

/// How an extent takes what is placed.
pub enum Place<'a> {
    /// Offset in its device.
    Flat(DeviceId, FileOffset),
    Grains(Box<LevelWriter<'a, 4>>),
}

/// An extent: its first byte in the disk, its length.
pub struct Region<'a> {
    pub start: u64,
    pub len: u64,
    pub place: Place<'a>,
}

/// All of them, in order.
pub struct Regions<'a> {
    machine: &'a dyn Machine,
    /// Bytes of the disk.
    size: u64,
    list: Vec<Region<'a>>,
}

impl<'a> Regions<'a> {
    pub const fn new(machine: &'a dyn Machine, size: u64, list: Vec<Region<'a>>) -> Self {
        Self { machine, size, list }
    }

    /// The grains of the first extent.
    pub fn first_grains(&self) -> Option<&LevelWriter<'a, 4>> {
        match self.list.first().map(|region| &region.place) {
            Some(Place::Grains(grains)) => Some(grains),
            _ => None,
        }
    }

    /// The extent of the image that holds byte `at`.
    fn region(&self, at: u64) -> Result<&Region<'a>> {
        let index = self.list.partition_point(|region| region.start.saturating_add(region.len) <= at);
        self.list.get(index).ok_or_else(|| Error::usage("read past the end of the disk"))
    }

    /// See [`instar_image::Image::extent`].
    pub fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let region = self.region(at)?;
        let inside = at - region.start;
        let left = region.len.saturating_sub(inside).min(max);
        let found = match &region.place {
            Place::Grains(grains) => grains.extent(&Entries(grains.levels()), inside, left)?,
            Place::Flat(device, offset) => {
                let (device, offset) = (*device, offset.saturating_add(inside));
                let source = self.machine.source();
                let run = RunMap::new(source, device, source.stat(device)?.len).run(offset)?;
                let place = match run.data {
                    true => extent::Place::Data { device, offset },
                    false => extent::Place::Zero { at: Some((device, offset)) },
                };
                Extent { at: inside, len: left.min(run.len.max(1)), place }
            }
        };
        Ok(Extent { at, ..found })
    }

    /// See [`instar_image::Editor::own`].
    pub fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        let region = self.region(at)?;
        let inside = at - region.start;
        let left = region.len.saturating_sub(inside).min(max);
        match &region.place {
            Place::Grains(grains) => grains.own(inside, left),
            Place::Flat(device, offset) => {
                Ok(Some(Spot { device: *device, offset: offset.saturating_add(inside), len: left }))
            }
        }
    }

    /// See [`instar_image::Writer::place`].
    pub fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let no_compressed =
            || Error::unsupported("Operation not supported").with_hint("no compressed grains are added");
        let len = piece.disk_len().ok_or_else(no_compressed)?;
        let end = at.saturating_add(len).min(self.size);
        for region in &self.list {
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

    /// See [`instar_image::Writer::is_full`].
    pub fn is_full(&self) -> bool {
        self.list.iter().any(|region| matches!(&region.place, Place::Grains(grains) if grains.is_full()))
    }

    /// See [`instar_image::Writer::settle`].
    pub fn settle(&self) -> Result<()> {
        for region in &self.list {
            if let Place::Flat(device, _) = region.place {
                self.machine.submit(&[Step::Barrier { device }])?;
            }
        }
        for region in &self.list {
            if let Place::Grains(grains) = &region.place {
                grains.settle()?;
            }
        }
        Ok(())
    }
}
