//! The writer of dynamic disks.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::blocks::BlockWriter;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{CreateContext, Machine, Result, Step};

use super::{Spec, encode};
use crate::layout::{BLOCK, SECTOR, UNALLOCATED};

struct Dynamic<'a> {
    machine: &'a dyn Machine,
    spec: Spec,
    blocks: BlockWriter<'a>,
}

/// Writes the map, of no block.
pub fn create<'a>(cx: &CreateContext<'a, '_>, spec: Spec) -> Result<Box<dyn Writer + 'a>> {
    let (machine, device) = (cx.machine, cx.device);
    let blocks = spec.blocks(device);
    blocks.fill(machine, 0, |_| UNALLOCATED)?;
    let rest = spec.data() - blocks.table.offset - blocks.table.count * 4;
    let zeroes = vec![0; rest as usize % SECTOR as usize];
    machine.submit(&[Step::Write { device, offset: spec.data() - rest, data: &zeroes }])?;
    let blocks = BlockWriter::new(machine, blocks, spec.data(), true)?;
    Ok(Box::new(Dynamic { machine, spec, blocks }))
}

impl Writer for Dynamic<'_> {
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
        self.blocks.settle(|_| Vec::new())
    }

    fn finish(&self) -> Result<()> {
        self.settle()?;
        let allocated = (self.blocks.end() - self.spec.data()) / BLOCK;
        let header = encode::header(&self.spec, allocated);
        self.machine.submit(&encode::finish(self.blocks.blocks().device, &header))
    }
}
