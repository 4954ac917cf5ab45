//! Making VMDK images: in one file with grains as they are (monolithicSparse) or compressed (streamOptimized), or with a
//! descriptor and extents in files of their own ([`files`]). Grains are placed in the order in which their data comes.

mod compress;
mod files;
mod grains;
mod spec;

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::options::{OptionKind, OptionSpec, Options, of_file};
use instar_image::sealed::Placed;
use instar_image::write::{Compressor, Piece, Target, Writer};
use instar_image::{CreateContext, Creator, DeviceId, Error, FileOffset, Machine, Result, Step};

use crate::layout::{SECTOR, sector_at};
use crate::regions::{Place, Region, Regions};
use compress::GrainCompressor;
use grains::{GRAIN, GrainExtent};
use spec::{Spec, Subformat};

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "adapter_type",
        kind: OptionKind::Text,
        help: "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
    },
    OptionSpec { name: "backing_file", kind: OptionKind::Text, help: "File name of a base image" },
    OptionSpec { name: "backing_fmt", kind: OptionKind::Text, help: "Must be 'vmdk' if present" },
    OptionSpec { name: "compat6", kind: OptionKind::Bool, help: "VMDK version 6 image" },
    of_file::EXTENT_SIZE_HINT,
    OptionSpec { name: "hwversion", kind: OptionKind::Text, help: "VMDK hardware version" },
    of_file::NOCOW,
    of_file::PREALLOCATION,
    OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size" },
    OptionSpec {
        name: "subformat",
        kind: OptionKind::Text,
        help: "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | \
               twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
    },
    OptionSpec { name: "toolsversion", kind: OptionKind::Text, help: "VMware guest tools version" },
    OptionSpec {
        name: "zeroed_grain",
        kind: OptionKind::Bool,
        help: "Enable efficient zero writes using the zeroed-grain GTE feature",
    },
];

/// The options in the order of "Formatting ..".
pub const SHOWN: &[(&str, Option<&str>)] = &[
    ("size", None),
    ("adapter_type", None),
    ("backing_file", None),
    ("backing_fmt", None),
    ("compat6", Some("off")),
    ("hwversion", Some("undefined")),
    ("toolsversion", None),
    ("subformat", None),
    ("zeroed_grain", None),
];

/// Makes them.
pub struct VmdkCreator;

impl Creator for VmdkCreator {
    /// An image without a disk is taken for a descriptor.
    fn can_be_filled(&self, options: &Options, size: u64) -> Result<()> {
        match options.get("subformat").unwrap_or(Subformat::Sparse.name()) {
            kind if size == 0 => Err(Error::unsupported(alloc::format!("Unsupported image type '{kind}'"))),
            _ => Ok(()),
        }
    }

    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx)?;
        let (machine, device) = (cx.machine, cx.device);
        let extents = files::make(machine, device, cx.name, &spec)?;
        if spec.kind.is_flat() {
            return Ok(Box::new(files::FlatWriter::new(machine, device, spec, extents)?));
        }
        let backed = spec.parent.is_some();
        let (mut grains, mut regions, mut start) = (Vec::new(), Vec::new(), 0);
        for (device, size) in extents {
            let extent =
                GrainExtent { device, size, compressed: spec.kind.is_compressed(), zeroed_grain: spec.zeroed_grain };
            regions.push(Region { start, len: size, place: Place::Grains(extent.make(machine, backed)?) });
            grains.push(extent);
            start += size;
        }
        let regions = Regions::new(machine, spec.size, regions);
        Ok(Box::new(VmdkWriter { machine, device, spec, regions, extents: grains }))
    }
}

struct VmdkWriter<'a> {
    machine: &'a dyn Machine,
    /// The image's own file.
    device: DeviceId,
    spec: Spec,
    regions: Regions<'a>,
    extents: Vec<GrainExtent>,
}

impl VmdkWriter<'_> {
    fn is_compressed(&self) -> bool {
        self.spec.kind.is_compressed()
    }
}

impl Writer for VmdkWriter<'_> {
    fn target(&self) -> Target {
        Target::Allocated { unit: GRAIN, zero_unit: GRAIN, zeroed: self.spec.parent.is_none() }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        match (piece, self.regions.first_grains()) {
            (Piece::Compressed(bytes), Some(grains)) => {
                // A marker: the first sector, how many bytes follow.
                let mut marker = (at / SECTOR).to_le_bytes().to_vec();
                marker.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                grains.place_compressed(at, (marker, bytes), SECTOR, |offset| offset / SECTOR, steps)
            }
            (Piece::Zero(_), _) if self.is_compressed() => Ok(()),
            _ if self.is_compressed() => Err(Error::unsupported("grains of this image are all compressed")),
            _ => self.regions.place(at, piece, steps),
        }
    }

    fn compressor(&self) -> Option<Box<dyn Compressor + '_>> {
        self.is_compressed().then(|| Box::new(GrainCompressor::new()) as Box<dyn Compressor>)
    }

    fn always_compresses(&self) -> bool {
        self.is_compressed()
    }

    fn is_full(&self) -> bool {
        self.regions.is_full()
    }

    fn settle(&self) -> Result<()> {
        self.regions.settle()
    }

    fn finish(&self) -> Result<()> {
        self.settle()?;
        let (machine, device) = (self.machine, self.device);
        if self.is_compressed() {
            // The last grain ends in the middle of a sector.
            let len = machine.stat(device)?.len.next_multiple_of(SECTOR);
            machine.submit(&[Step::SetLength { device, len }])?;
        }
        let text = self.spec.text();
        if self.spec.kind.files().is_none() {
            machine.submit(&[Step::Write { device, offset: sector_at(1), data: &text }])?;
        }
        for extent in &self.extents {
            let (device, header) = (extent.device, extent.header());
            machine.submit(&[
                Step::Barrier { device },
                Step::Write { device, offset: FileOffset::ZERO, data: &header },
                Step::Barrier { device },
            ])?;
        }
        if self.spec.kind.files().is_some() {
            machine
                .submit(&[Step::Write { device, offset: FileOffset::ZERO, data: &text }, Step::Barrier { device }])?;
        }
        Ok(())
    }
}
