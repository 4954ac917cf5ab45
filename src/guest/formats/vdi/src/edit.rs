//! Changing an image in place. A new block is counted in the header before the map refers to it: of a run that is cut in
//! between there are fewer blocks than the header says, and never two that share a place.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::blocks::{BlockWriter, Blocks};
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{Changes, DeviceId, Editor, FileOffset, Machine, OpenContext, Result, Spot, Step};

use crate::VdiImage;
use crate::header::Header;
use crate::layout::{BLOCK, field, is_absent};

/// The format has no mark of an open image. Whoever was killed may have counted a block in the header that the map does not
/// refer to yet: it is counted no more.
pub fn recover(machine: &dyn Machine, cx: &OpenContext<'_, '_>) -> Result<()> {
    // What is wrong with a header is said by whoever opens the image.
    let Ok(header) = Header::read(cx) else { return Ok(()) };
    count_blocks(machine, &header, cx.device, true).map(|_| ())
}

/// Has the header tell how many blocks there are, if they follow one another; returns whether it told something else.
/// `fewer`: only if they are fewer than it tells.
pub fn count_blocks(machine: &dyn Machine, header: &Header, device: DeviceId, fewer: bool) -> Result<bool> {
    let (mut count, mut behind) = (0u64, 0u64);
    header.blocks(device).each(machine.source(), |_, entry| {
        if !is_absent(entry) {
            (count, behind) = (count + 1, behind.max(u64::from(entry) + 1));
        }
        Ok(())
    })?;
    let told = u64::from(header.allocated);
    if count != behind || count == told || (fewer && count > told) {
        return Ok(false);
    }
    let data = (count as u32).to_le_bytes();
    let write = Step::Write { device, offset: FileOffset::new(field::ALLOCATED as u64), data: &data };
    machine.submit(&[write, Step::Barrier { device }]).map(|()| true)
}

/// Number of the first block of the file that nothing refers to, nor to any behind it.
pub fn used(machine: &dyn Machine, blocks: &Blocks, header: &Header) -> Result<u64> {
    let mut used = u64::from(header.allocated);
    blocks.each(machine.source(), |_, entry| {
        if !is_absent(entry) {
            used = used.max(u64::from(entry) + 1);
        }
        Ok(())
    })?;
    Ok(used)
}

/// An image that is being changed.
pub struct VdiEditor<'a> {
    /// Where the first block is.
    data: FileOffset,
    /// The blocks.
    pub blocks: BlockWriter<'a>,
}

impl<'a> VdiEditor<'a> {
    /// Reads the map.
    pub fn open(image: &VdiImage<'a>, _changes: &Changes<'_>) -> Result<Self> {
        let (machine, header) = (image.purpose.machine()?, &image.header);
        header.check_order()?;
        let blocks = header.blocks(image.device);
        let end = header.data + used(machine, &blocks, header)? * BLOCK;
        Ok(Self { data: header.data, blocks: BlockWriter::new(machine, blocks, end, false)? })
    }
}

impl Editor for VdiEditor<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        self.blocks.own(at, max)
    }
}

impl Writer for VdiEditor<'_> {
    fn target(&self) -> Target {
        self.blocks.target()
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        self.blocks.place(at, piece, steps)
    }

    fn is_full(&self) -> bool {
        self.blocks.is_full()
    }

    fn settle(&self) -> Result<()> {
        self.blocks.settle(|end| {
            let count = (end - self.data) / BLOCK;
            let data = (count as u32).to_le_bytes().to_vec();
            vec![Placed::Owned {
                device: self.blocks.blocks().device,
                offset: FileOffset::new(field::ALLOCATED as u64),
                data,
            }]
        })
    }

    fn finish(&self) -> Result<()> {
        self.settle()
    }
}
