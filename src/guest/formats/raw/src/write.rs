//! Making raw images: a length, and whatever is written.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use instar_image::create::{check_room, not_resized, set_first_length};
use instar_image::options::{OptionKind, OptionSpec};
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{
    CreateContext, Creator, DeviceId, Error, FileOffset, Machine, Measure, Measured, NewSize, Preallocation, Resizing,
    Result, Step,
};

use crate::{RawImage, SECTOR};

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "extent_size_hint",
        kind: OptionKind::Size,
        help: "Extent size hint for the image file, 0 to disable",
    },
    OptionSpec { name: "nocow", kind: OptionKind::Bool, help: "Turn off copy-on-write (valid only on btrfs)" },
    OptionSpec {
        name: "preallocation",
        kind: OptionKind::Text,
        help: "Preallocation mode (allowed values: off, falloc, full)",
    },
    OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size" },
];

/// Makes them.
pub struct RawCreator;

impl Creator for RawCreator {
    fn measure(&self, cx: &CreateContext<'_, '_>, _source: Option<&dyn Measured>) -> Option<Result<Measure>> {
        Some(Ok(Measure { required: cx.size, fully_allocated: cx.size, bitmaps: None }))
    }

    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let stat = cx.machine.stat(cx.device)?;
        if stat.block_device {
            if let Some(mode) = cx.options.get("preallocation").filter(|mode| *mode != "off") {
                return Err(Error::unsupported(format!("Unsupported preallocation mode '{mode}'")));
            }
            check_room(cx.machine, cx.device, cx.size)?;
            return Ok(Box::new(RawWriter { machine: cx.machine, device: cx.device, zeroed: false }));
        }
        let (allocate, full) = match cx.options.get("preallocation") {
            None | Some("off") => (false, false),
            Some("falloc") => (true, false),
            Some("full") => (true, true),
            Some("metadata") => return Err(Error::unsupported("Unsupported preallocation mode: metadata")),
            Some(other) => {
                return Err(Error::usage(format!("invalid parameter value: {other}")));
            }
        };
        let device = cx.device;
        let len = cx.size.checked_next_multiple_of(SECTOR).filter(|len| i64::try_from(*len).is_ok());
        let len = len.ok_or_else(|| Error::usage("Could not resize file: Invalid argument"))?;
        if stat.fresh && !allocate {
            set_first_length(cx.machine, device, len)?;
        } else {
            cx.machine.submit(&[Step::SetLength { device, len }]).map_err(not_resized)?;
        }
        if allocate {
            cx.machine
                .submit(&[Step::Allocate { device, offset: FileOffset::ZERO, len, full }])
                .map_err(not_resized)?;
        }
        Ok(Box::new(RawWriter { machine: cx.machine, device, zeroed: stat.fresh }))
    }
}

impl Resizing for RawImage<'_> {
    fn resize(&self, to: &NewSize) -> Result<()> {
        let (machine, device) = (self.purpose.machine()?, self.device);
        if let Some(error) = self.keeps_size(to.size) {
            return Err(error);
        }
        let stat = machine.stat(device)?;
        // What lies before the disk stays.
        let end = self.part.offset.checked_add(to.size);
        let end = end.ok_or_else(|| Error::usage("Disk size too large for the chosen offset"))?;
        let full = match to.preallocation {
            Preallocation::Off => None,
            Preallocation::Falloc => Some(false),
            Preallocation::Full => Some(true),
            Preallocation::Metadata => return Err(Error::unsupported("Unsupported preallocation mode: metadata")),
        };
        if stat.block_device && end == stat.end() {
            return Ok(());
        }
        // It is not always a device.
        if let Some(error) = machine.keeps_length(device, end.get()) {
            return Err(error);
        }
        if stat.block_device {
            return Err(Error::unsupported(if to.at_least && end > stat.end() {
                "Cannot grow device files"
            } else {
                "Cannot resize device files"
            }));
        }
        // Blocks that cannot be had are missed before the size says that they are there.
        if let Some(full) = full {
            let allocate = Step::Allocate { device, offset: stat.end(), len: end.saturating_since(stat.end()), full };
            if let Err(error) = machine.submit(&[allocate]) {
                machine.submit(&[Step::SetLength { device, len: stat.len }])?;
                return Err(error.context(if full {
                    "Could not write zeros for preallocation"
                } else {
                    "Could not preallocate new data"
                }));
            }
        }
        let resize = Step::SetLength { device, len: end.get() };
        machine.submit(&[resize]).map_err(|error| error.context("Could not resize file"))?;
        machine.submit(&[Step::Barrier { device }])
    }

    fn keeps_size(&self, _to: u64) -> Option<Error> {
        self.is_cut.then(|| Error::unsupported("Cannot resize fixed-size raw disks"))
    }
}

struct RawWriter<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    zeroed: bool,
}

impl Writer for RawWriter<'_> {
    fn target(&self) -> Target {
        Target::Linear { device: self.device, base: FileOffset::ZERO, zeroed: self.zeroed }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the bytes of a raw image have their places"))
    }

    fn finish(&self) -> Result<()> {
        self.machine.submit(&[Step::Barrier { device: self.device }])
    }
}
