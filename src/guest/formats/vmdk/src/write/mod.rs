//! Making VMDK images in one sparse file: grains as they are (monolithicSparse), or compressed (streamOptimized). Grains
//! are placed in the order in which their data comes; the tables lie at the front, as QEMU has it.

mod encode;
mod spec;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_codec::Deflater;
use instar_image::levels::{LevelWriter, Levels};
use instar_image::options::{OptionKind, OptionSpec, Options, of_file};
use instar_image::pieces::Span;
use instar_image::write::{Packer, Piece, Placed, Target, Writer};
use instar_image::{CreateContext, Creator, Error, Machine, Result, Step};

use crate::edit::plain;
use crate::layout::{SECTOR, ZERO_GRAIN};
use spec::{GRAIN, Spec, TABLE};

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
    ("subformat", None),
    ("toolsversion", None),
    ("zeroed_grain", None),
];

/// Bytes that are written at once to a directory.
const AT_ONCE: u64 = 1 << 16;

/// Makes them.
pub struct VmdkCreator;

impl Creator for VmdkCreator {
    fn can_back(&self) -> bool {
        true
    }

    /// Where grains are not compressed, it changes nothing.
    fn can_compress(&self) -> bool {
        true
    }

    /// An image without a disk is taken for a descriptor.
    fn can_be_filled(&self, options: &Options, size: u64) -> Result<()> {
        match options.get("subformat").unwrap_or(spec::SPARSE) {
            kind if size == 0 => Err(Error::unsupported(alloc::format!("Unsupported image type '{kind}'"))),
            _ => Ok(()),
        }
    }

    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx)?;
        let (machine, device) = (cx.machine, cx.device);
        machine.submit(&[Step::Zero { device, offset: 0, len: spec.data(), unmap: false }])?;
        for directory in [spec.directory(0), spec.directory(1)] {
            write_directory(machine, &spec, directory, device)?;
        }
        let [second, first] = [0, 1].map(|nth| Span { offset: spec.directory(nth), count: spec.tables() });
        let levels = Levels {
            device,
            size: spec.size,
            cluster: GRAIN,
            l1: first,
            copy: Some(second),
            l2_entries: TABLE,
            big_endian: false,
            table_first: true,
            room: (SECTOR, SECTOR),
            scale: SECTOR,
            plain,
            backed: spec.parent.is_some(),
            zero: spec.zeroed_grain.then_some(u64::from(ZERO_GRAIN)),
        };
        let grains = LevelWriter::new(machine, levels, spec.data())?;
        Ok(Box::new(VmdkWriter { machine, spec, grains }))
    }
}

/// The tables follow their directory.
fn write_directory(machine: &dyn Machine, spec: &Spec, directory: u64, device: instar_image::DeviceId) -> Result<()> {
    let tables = directory + spec.directory_len();
    let step = AT_ONCE / 4;
    let mut index = 0;
    while index < spec.tables() {
        let end = spec.tables().min(index + step);
        let sector = |number: u64| u32::try_from((tables + number * TABLE * 4) / SECTOR).unwrap_or(u32::MAX);
        let data: Vec<u8> = (index..end).flat_map(|number| sector(number).to_le_bytes()).collect();
        machine.submit(&[Step::Write { device, offset: directory + index * 4, data: &data }])?;
        index = end;
    }
    Ok(())
}

struct VmdkWriter<'a> {
    machine: &'a dyn Machine,
    spec: Spec,
    grains: LevelWriter<'a, 4>,
}

impl Writer for VmdkWriter<'_> {
    fn target(&self) -> Target {
        Target::Allocated { unit: GRAIN, zero_unit: GRAIN, zeroed: self.spec.parent.is_none() }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        match piece {
            Piece::Packed(bytes) => {
                // A marker: the first sector, how many bytes follow.
                let mut marker = (at / SECTOR).to_le_bytes().to_vec();
                marker.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                self.grains.place_packed(at, (marker, bytes), SECTOR, |offset| offset / SECTOR, steps)
            }
            Piece::Zero(_) if self.spec.packed => Ok(()),
            _ if self.spec.packed => Err(Error::unsupported("grains of this image are all compressed")),
            _ => self.grains.place(at, piece, steps),
        }
    }

    fn packer(&self) -> Option<Box<dyn Packer + '_>> {
        self.spec.packed.then(|| Box::new(GrainPacker::new()) as Box<dyn Packer>)
    }

    fn always_compresses(&self) -> bool {
        self.spec.packed
    }

    fn is_full(&self) -> bool {
        self.grains.is_full()
    }

    fn settle(&self) -> Result<()> {
        self.grains.settle()
    }

    fn finish(&self) -> Result<()> {
        self.settle()?;
        let (machine, device) = (self.machine, self.grains.levels().device);
        if self.spec.packed {
            // The last grain ends in the middle of a sector.
            let len = machine.stat(device)?.len.next_multiple_of(SECTOR);
            machine.submit(&[Step::SetLength { device, len }])?;
        }
        machine.submit(&[
            Step::Write { device, offset: SECTOR, data: &self.spec.text() },
            Step::Barrier { device },
            Step::Write { device, offset: 0, data: &encode::header(&self.spec) },
            Step::Barrier { device },
        ])
    }
}

/// The library's own level 6 trades size for speed.
const LEVEL: i32 = 7;

/// Compresses grains: every one of them, for there are no others in such an image.
struct GrainPacker {
    deflater: Deflater,
    /// For what does not get smaller.
    storer: Deflater,
    whole: Vec<u8>,
}

impl GrainPacker {
    fn new() -> Self {
        Self { deflater: Deflater::zlib(LEVEL), storer: Deflater::zlib(0), whole: vec![0; GRAIN as usize] }
    }
}

impl Packer for GrainPacker {
    fn pack(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let mut unit = unit;
        if let Some((there, rest)) = self.whole.split_at_mut_checked(unit.len()).filter(|(_, rest)| !rest.is_empty()) {
            there.copy_from_slice(unit);
            rest.fill(0);
            unit = &self.whole;
        }
        if self.deflater.deflate(unit, out, unit.len()) || self.storer.deflate_any(unit, out, 2 * unit.len()) {
            return Ok(true);
        }
        Err(Error::corrupt("a grain could not be stored"))
    }
}
