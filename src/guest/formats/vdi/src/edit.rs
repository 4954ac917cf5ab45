//! Changing an image in place. A new block is counted in the header before the map refers to it: of a run that is cut in
//! between there are fewer blocks than the header says, and never two that share a place.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::blocks::{BlockWriter, Blocks};
use instar_image::options::check_driver_options;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{EditContext, Editing, Editor, Machine, OpenContext, Result, Step};

use crate::header::Header;
use crate::layout::{BLOCK, field, is_absent};

/// Opens them to be changed.
pub struct VdiEditing;

impl Editing for VdiEditing {
    /// The format has no mark of an open image. Whoever was killed may have counted a block in the header that the map does not
    /// refer to yet: it is counted no more.
    fn recover(&self, machine: &dyn Machine, cx: &OpenContext<'_, '_>, _lower: bool) -> Result<()> {
        // What is wrong with a header is said by whoever opens the image.
        let Ok(header) = Header::read(cx) else { return Ok(()) };
        let (mut count, mut behind) = (0u64, 0u64);
        header.blocks(cx.device).each(machine.source(), |_, entry| {
            if !is_absent(entry) {
                (count, behind) = (count + 1, behind.max(u64::from(entry) + 1));
            }
            Ok(())
        })?;
        if count != behind || count >= u64::from(header.allocated) {
            return Ok(());
        }
        let (device, data) = (cx.device, (count as u32).to_le_bytes());
        let write = Step::Write { device, offset: field::ALLOCATED as u64, data: &data };
        machine.submit(&[write, Step::Barrier { device }])
    }

    fn edit<'a>(&self, cx: EditContext<'a, '_>) -> Result<Box<dyn Editor + 'a>> {
        check_driver_options("vdi", cx.options, &[])?;
        let EditContext { machine, device, .. } = cx;
        let header = Header::read(&OpenContext::of_edit(&cx))?;
        header.check_order()?;
        let blocks = header.blocks(device);
        let end = header.data + used(machine, &blocks, &header)? * BLOCK;
        Ok(Box::new(VdiEditor { header, blocks: BlockWriter::new(machine, blocks, end, false)? }))
    }
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

struct VdiEditor<'a> {
    header: Header,
    blocks: BlockWriter<'a>,
}

impl Editor for VdiEditor<'_> {
    fn virtual_size(&self) -> u64 {
        self.header.size
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
            let count = (end - self.header.data) / BLOCK;
            let data = (count as u32).to_le_bytes().to_vec();
            vec![Placed::Owned { device: self.blocks.blocks().device, offset: field::ALLOCATED as u64, data }]
        })
    }

    fn finish(&self) -> Result<()> {
        self.settle()
    }
}
