//! The writer of static disks: every block has its place.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::blocks::Blocks;
use instar_image::pieces::Span;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{CreateContext, DeviceId, Error, Machine, Result, Step};

use super::{Spec, encode};
use crate::layout::{BLOCK, HEADER_LEN, is_absent};

struct Fixed<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    spec: Spec,
    zeroed: bool,
}

/// Writes the map and reserves the length.
pub fn create<'a>(cx: &CreateContext<'a, '_>, spec: Spec) -> Result<Box<dyn Writer + 'a>> {
    let (machine, device) = (cx.machine, cx.device);
    let zeroed = machine.stat(device)?.fresh;
    if zeroed {
        machine.submit(&[Step::SetLength { device, len: spec.data() + spec.blocks() * BLOCK }])?;
    }
    let table = Span { offset: HEADER_LEN as u64, count: spec.blocks() };
    let blocks = Blocks {
        device,
        size: spec.size,
        block: BLOCK,
        table,
        base: spec.data(),
        scale: BLOCK,
        absent: is_absent,
        big_endian: false,
    };
    blocks.fill(machine, 0, |number| number as u32)?;
    Ok(Box::new(Fixed { machine, device, spec, zeroed }))
}

impl Writer for Fixed<'_> {
    fn target(&self) -> Target {
        Target::Linear { device: self.device, base: self.spec.data(), zeroed: self.zeroed }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the blocks of a static disk have their places"))
    }

    fn finish(&self) -> Result<()> {
        let header = encode::header(&self.spec, self.spec.blocks());
        self.machine.submit(&encode::finish(self.device, &header))
    }
}
