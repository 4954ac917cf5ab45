//! What QEMU has below its formats: the drivers of files and of devices, where one is named as if it were a format. The
//! bytes are the disk's, as in [`crate::Raw`]; options and words are the driver's own.

use alloc::boxed::Box;
use alloc::format;

use instar_image::machine::display_name;
use instar_image::options::{OptionKind, OptionSpec, check_driver_options};
use instar_image::write::Writer;
use instar_image::{CreateContext, Creator, Error, Format, Image, OpenContext, Probe, Quirk, Result, SafetyCheck};

use crate::Raw;
use crate::write::{OPTIONS, RawCreator};

/// A driver.
pub struct Protocol {
    name: &'static str,
    /// It is for devices, the other one for regular files.
    of_devices: bool,
    options: &'static [OptionSpec],
    shown: &'static [(&'static str, Option<&'static str>)],
}

/// Regular files.
pub const FILE: Protocol = Protocol {
    name: "file",
    of_devices: false,
    options: OPTIONS,
    shown: &[("size", None), ("nocow", None), ("preallocation", None), ("extent_size_hint", None)],
};

/// Devices.
pub const HOST_DEVICE: Protocol = Protocol {
    name: "host_device",
    of_devices: true,
    options: &[
        OptionSpec { name: "preallocation", kind: OptionKind::Text, help: "Preallocation mode (allowed values: off)" },
        OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size" },
    ],
    shown: &[("size", None), ("preallocation", None)],
};

/// Devices, of which some have a medium that can be taken out.
pub const HOST_CDROM: Protocol = Protocol { name: "host_cdrom", ..HOST_DEVICE };

impl Format for Protocol {
    fn name(&self) -> &'static str {
        self.name
    }

    fn probe(&self, _probe: &Probe<'_>) -> u32 {
        0
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        check_driver_options(self.name, cx.options, &[])?;
        if cx.source.stat(cx.device)?.block_device != self.of_devices {
            let kind = if self.of_devices { "either a character or block device" } else { "a regular file" };
            let shown = display_name(cx.name);
            return Err(Error::usage(format!("'{}' driver requires '{shown}' to be {kind}", self.name)));
        }
        Raw.open(cx)
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        self.options
    }

    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        self.shown
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(self)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // It is named where a format would be.
            Quirk::FileDriver,
            // A reader sees some state of each sector, as a machine would.
            Quirk::SharedWithWriters,
            // What may lie below it is an image that another driver knows.
            Quirk::ClusterSizeOfFile,
            // So too where data is.
            Quirk::StatusOfFile,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::NoneNeeded("it has no metadata: no table, no name of another file")]
    }
}

impl Creator for Protocol {
    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let stat = cx.machine.stat(cx.device)?;
        if self.of_devices && stat.len < cx.size {
            return Err(Error::usage("Cannot grow device files"));
        }
        RawCreator.create(cx)
    }
}
