//! Disks of which every byte has its place in the file: made, and changed.

use alloc::vec::Vec;

use crate::edit::own_linear;
use crate::sealed::Placed;
use crate::write::{Piece, Target, Writer};
use crate::{DeviceId, Editor, Error, FileOffset, Machine, Result, Spot, Step};

/// Writes one; `F` makes the file an image when all else is there, and is told whether the file was empty at first.
pub struct FixedWriter<F> {
    device: DeviceId,
    /// Where in the file the disk begins.
    base: FileOffset,
    zeroed: bool,
    finish: F,
}

impl<F: Fn(bool) -> Result<()> + Sync> FixedWriter<F> {
    /// The file is going to be `len` bytes long: as long, if it was empty.
    pub fn new(machine: &dyn Machine, device: DeviceId, base: FileOffset, len: u64, finish: F) -> Result<Self> {
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
        Err(misplaced())
    }

    fn finish(&self) -> Result<()> {
        (self.finish)(self.zeroed)
    }
}

/// Changes one in place. There is nothing but the disk's bytes to change.
pub struct FixedEditor<'a> {
    /// The machine.
    pub machine: &'a dyn Machine,
    /// Where the disk is.
    pub device: DeviceId,
    /// Where in the file it begins.
    pub base: FileOffset,
}

impl Writer for FixedEditor<'_> {
    fn target(&self) -> Target {
        Target::Linear { device: self.device, base: self.base, zeroed: false }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(misplaced())
    }

    fn settle(&self) -> Result<()> {
        self.machine.submit(&[Step::Barrier { device: self.device }])
    }

    fn finish(&self) -> Result<()> {
        self.settle()
    }
}

impl Editor for FixedEditor<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        own_linear(self.target(), at, max)
    }
}

fn misplaced() -> Error {
    Error::corrupt("the bytes of a fixed disk have their places")
}
