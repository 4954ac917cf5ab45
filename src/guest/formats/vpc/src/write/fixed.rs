//! The writer of fixed disks: every byte has its place, and the footer follows.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer, check_room};
use instar_image::{CreateContext, DeviceId, Error, Machine, Result, Step};

use super::encode::footer_of;
use super::spec::Spec;
use crate::layout::FOOTER;

/// The block that is there in every new file, in bytes: QEMU finds out by it what the file's blocks are like.
const FIRST: u64 = 4096;

struct Fixed<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    spec: Spec,
    zeroed: bool,
}

/// Reserves the length.
pub fn create<'a>(cx: &CreateContext<'a, '_>, spec: Spec) -> Result<Box<dyn Writer + 'a>> {
    let (machine, device) = (cx.machine, cx.device);
    check_room(machine, device, spec.size + FOOTER as u64)?;
    let zeroed = machine.stat(device)?.fresh;
    if zeroed {
        let len = spec.size + FOOTER as u64;
        machine.submit(&[Step::SetLength { device, len }])?;
        let data = vec![0; FIRST.min(spec.size) as usize];
        machine.submit(&[Step::Write { device, offset: 0, data: &data }])?;
    }
    Ok(Box::new(Fixed { machine, device, spec, zeroed }))
}

impl Writer for Fixed<'_> {
    fn target(&self) -> Target {
        Target::Linear { device: self.device, base: 0, zeroed: self.zeroed }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the bytes of a fixed disk have their places"))
    }

    fn finish(&self) -> Result<()> {
        let device = self.device;
        self.machine.submit(&[
            Step::Barrier { device },
            Step::Write { device, offset: self.spec.size, data: &footer_of(&self.spec) },
            Step::Barrier { device },
        ])
    }
}
