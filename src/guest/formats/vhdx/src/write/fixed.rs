//! The writer of fixed disks: every block has its place.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::runs::RunMap;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer, check_room};
use instar_image::{CreateContext, DeviceId, Error, Machine, Result, Step};

use super::encode;
use super::spec::Spec;
use crate::layout::state;

/// Entries of the table that are written at once.
const ENTRIES_AT_ONCE: u64 = 1 << 16;

struct Fixed<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    spec: Spec,
    zeroed: bool,
}

/// Reserves the length.
pub fn create<'a>(cx: &CreateContext<'a, '_>, spec: Spec) -> Result<Box<dyn Writer + 'a>> {
    let (machine, device) = (cx.machine, cx.device);
    check_room(machine, device, spec.data() + spec.size)?;
    let zeroed = machine.stat(device)?.fresh;
    if zeroed {
        machine.submit(&[Step::SetLength { device, len: spec.data() + spec.size }])?;
    }
    Ok(Box::new(Fixed { machine, device, spec, zeroed }))
}

impl Writer for Fixed<'_> {
    fn target(&self) -> Target {
        Target::Linear { device: self.device, base: self.spec.data(), zeroed: self.zeroed }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the blocks of a fixed disk have their places"))
    }

    fn finish(&self) -> Result<()> {
        let Self { machine, device, ref spec, .. } = *self;
        let geometry = spec.geometry();
        // A disk without data has its room at the end of the file, and, as QEMU has it, blocks that are zeroes yet.
        let end = spec.data() + spec.size;
        let run = RunMap::new(machine.source(), device, end).run(spec.data())?;
        let blank = spec.zero && self.zeroed && !run.data && run.len >= spec.size;
        let places = spec.bat_len() / 8;
        let mut first = 0;
        while first < places {
            let end = (first + ENTRIES_AT_ONCE).min(places);
            let value = |index: u64| {
                let block = index - index / (geometry.ratio + 1);
                if geometry.is_bitmap(index) || block >= geometry.blocks {
                    0
                } else if blank {
                    state::ZERO
                } else {
                    (spec.data() + block * geometry.block) | state::FULLY_PRESENT
                }
            };
            let bytes: Vec<u8> = (first..end).flat_map(|index| value(index).to_le_bytes()).collect();
            machine.submit(&[Step::Write { device, offset: geometry.bat + first * 8, data: &bytes }])?;
            first = end;
        }
        encode::write(machine, device, spec, None)
    }
}
