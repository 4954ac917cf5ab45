//! Changing an image in place. It is marked as being in use meanwhile: of a run that is cut the mark stays, and clusters
//! that nothing refers to.

use alloc::vec::Vec;

use instar_image::blocks::{BlockWriter, Blocks};
use instar_image::check::Quiet;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{Changes, CheckContext, Editor, Error, FileOffset, Machine, Result, Spot, Step};
use spin::Mutex;

use crate::header::Header;
use crate::layout::{IN_USE, field};
use crate::{ParallelsImage, check};

/// An image that was not closed is looked through before it is written to.
pub fn refuse_damaged(image: &ParallelsImage<'_>, machine: &dyn Machine) -> Result<()> {
    if image.header.in_use {
        let report = check::run(&image.header, image.device, CheckContext { machine, findings: &mut Quiet })?;
        // One is for the mark.
        if report.corruptions > 1 {
            return Err(Error::corrupt("the image was not closed, and is damaged"));
        }
    }
    Ok(())
}

/// Behind the last cluster, where another one can be.
pub fn end(machine: &dyn Machine, header: &Header, blocks: &Blocks) -> Result<FileOffset> {
    let mut end = header.align(header.map_end().max(header.data_at()));
    blocks.each(machine.source(), |_, entry| {
        let last = blocks.place(entry).map_or(FileOffset::ZERO, |offset| offset.saturating_add(header.cluster));
        end = end.max(last);
        Ok(())
    })?;
    Ok(end)
}

/// An image that is being changed.
pub struct ParallelsEditor<'a> {
    machine: &'a dyn Machine,
    /// The clusters.
    pub blocks: BlockWriter<'a>,
    /// The mark was set by us.
    marked: Mutex<bool>,
}

impl<'a> ParallelsEditor<'a> {
    /// Reads the map.
    pub fn open(image: &ParallelsImage<'a>, changes: &Changes<'_>) -> Result<Self> {
        let (machine, header) = (image.purpose.machine()?, &image.header);
        if header.extension != FileOffset::ZERO && changes.content {
            return Err(Error::unsupported("the image has a format extension, which would not be kept up"));
        }
        refuse_damaged(image, machine)?;
        let blocks = header.blocks(image.device);
        let end = end(machine, header, &blocks)?;
        Ok(Self { machine, blocks: BlockWriter::new(machine, blocks, end, false)?, marked: Mutex::new(false) })
    }

    fn mark(&self, in_use: bool) -> Result<()> {
        let mut marked = self.marked.lock();
        if *marked != in_use {
            let device = self.blocks.blocks().device;
            let data = if in_use { IN_USE } else { 0 }.to_le_bytes();
            let step = Step::Write { device, offset: FileOffset::new(field::IN_USE as u64), data: &data };
            self.machine.submit(&[step, Step::Barrier { device }])?;
            *marked = in_use;
        }
        Ok(())
    }
}

impl Editor for ParallelsEditor<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        self.mark(true)?;
        self.blocks.own(at, max)
    }
}

impl Writer for ParallelsEditor<'_> {
    fn target(&self) -> Target {
        self.blocks.target()
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        self.mark(true)?;
        self.blocks.place(at, piece, steps)
    }

    fn is_full(&self) -> bool {
        self.blocks.is_full()
    }

    fn settle(&self) -> Result<()> {
        self.blocks.settle(|_| Vec::new())
    }

    fn finish(&self) -> Result<()> {
        self.settle()?;
        self.mark(false)
    }
}
