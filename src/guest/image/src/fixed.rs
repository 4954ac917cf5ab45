//! New disks of which every byte has its place in the file from the start.

use alloc::vec::Vec;

use crate::sealed::Placed;
use crate::write::{Piece, Target, Writer};
use crate::{DeviceId, Error, Machine, Result, Step};

/// Writes one; `F` makes the file an image when all else is there, and is told whether the file was empty at first.
pub struct FixedWriter<F> {
    device: DeviceId,
    /// Byte of the file at which the disk begins.
    base: u64,
    zeroed: bool,
    finish: F,
}

impl<F: Fn(bool) -> Result<()> + Sync> FixedWriter<F> {
    /// The file is going to be `len` bytes long: as long, if it was empty.
    pub fn new(machine: &dyn Machine, device: DeviceId, base: u64, len: u64, finish: F) -> Result<Self> {
        let zeroed = machine.stat(device)?.fresh;
        if zeroed {
            machine.submit(&[Step::SetLength { device, len }])?;
        }
        Ok(Self { device, base, zeroed, finish })
    }

    /// The file was empty.
    pub const fn is_zeroed(&self) -> bool {
        self.zeroed
    }
}

impl<F: Fn(bool) -> Result<()> + Sync> Writer for FixedWriter<F> {
    fn target(&self) -> Target {
        Target::Linear { device: self.device, base: self.base, zeroed: self.zeroed }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the bytes of a fixed disk have their places"))
    }

    fn finish(&self) -> Result<()> {
        (self.finish)(self.zeroed)
    }
}
