//! Making Parallels images: clusters are placed in the order in which their data comes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::blocks::{BlockWriter, Blocks};
use instar_image::options::{OptionKind, OptionSpec, of_file};
use instar_image::sealed::Placed;
use instar_image::table::Span;
use instar_image::values::size;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{CreateContext, Creator, Error, FileOffset, Machine, Result, Step};

use crate::layout::{
    ENTRIES_MAX, ENTRY, HEADER_LEN, HEADS, MAGIC_CLUSTERS, PER_CYLINDER, SECTOR, SECTORS_MAX, TRACKS_MAX, VERSION,
    field, is_absent,
};

/// Bytes of a cluster where nothing is said.
const CLUSTER: u64 = 1 << 20;

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "cluster_size", kind: OptionKind::Size, help: "Parallels image cluster size" },
    of_file::EXTENT_SIZE_HINT,
    of_file::NOCOW,
    of_file::PREALLOCATION,
    OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size" },
];

/// The options in the order of "Formatting ..".
pub const SHOWN: &[(&str, Option<&str>)] = &[("size", None), ("cluster_size", Some("1048576"))];

/// A new disk.
struct Spec {
    /// Size in sectors.
    sectors: u64,
    /// Bytes of a cluster.
    cluster: u64,
}

impl Spec {
    /// From what the user said.
    fn read(cx: &CreateContext<'_, '_>) -> Result<Self> {
        let said = cx.options.get("cluster_size").map_or(Ok(CLUSTER), |text| size("cluster_size", text))?;
        of_file::check_preallocation(cx.options)?;
        let cluster = said.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        if cluster > u64::from(TRACKS_MAX) * SECTOR {
            return Err(Error::usage("Cluster size is too large"));
        }
        let spec = Self { sectors: cx.size.div_ceil(SECTOR), cluster };
        let large = || Error::usage("Image size is too large for this cluster size");
        if cluster == 0 || spec.sectors > SECTORS_MAX {
            return Err(large());
        }
        // What has more entries is made by QEMU before 11.1 up to eight times as large, but not opened.
        let most = u64::from(ENTRIES_MAX);
        if spec.entries() > most {
            return Err(if spec.entries() < most * 8 { Error::limit("too many entries") } else { large() });
        }
        Ok(spec)
    }

    /// Entries of the map.
    const fn entries(&self) -> u64 {
        self.sectors.div_ceil(self.cluster / SECTOR)
    }

    /// Where the first cluster is, behind the map.
    const fn data(&self) -> FileOffset {
        FileOffset::new((HEADER_LEN as u64 + self.entries() * ENTRY).next_multiple_of(self.cluster))
    }

    fn header(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        put(0, MAGIC_CLUSTERS);
        for (at, value) in [
            (field::VERSION, VERSION),
            (field::HEADS, HEADS),
            // As QEMU counts: of very large disks the lower bits.
            (field::CYLINDERS, (self.sectors / PER_CYLINDER) as u32),
            (field::TRACKS, (self.cluster / SECTOR) as u32),
            (field::ENTRIES, self.entries() as u32),
            (field::DATA_OFFSET, (self.data() / SECTOR) as u32),
        ] {
            put(at, &value.to_le_bytes());
        }
        put(field::SECTORS, &self.sectors.to_le_bytes());
        bytes
    }
}

/// Makes them.
pub struct ParallelsCreator;

impl Creator for ParallelsCreator {
    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx)?;
        let (machine, device) = (cx.machine, cx.device);
        let blocks = Blocks {
            device,
            size: spec.sectors * SECTOR,
            block: spec.cluster,
            table: Span { offset: FileOffset::new(HEADER_LEN as u64), count: spec.entries() },
            base: FileOffset::ZERO,
            scale: spec.cluster,
            absent: is_absent,
            big_endian: false,
            backed: true,
        };
        // All of it has blocks in the file, as with QEMU.
        machine.submit(&[Step::Zero { device, offset: FileOffset::ZERO, len: spec.data().get(), unmap: false }])?;
        let blocks = BlockWriter::new(machine, blocks, spec.data(), true)?;
        Ok(Box::new(ParallelsWriter { machine, spec, blocks }))
    }
}

struct ParallelsWriter<'a> {
    machine: &'a dyn Machine,
    spec: Spec,
    blocks: BlockWriter<'a>,
}

impl Writer for ParallelsWriter<'_> {
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
        let device = self.blocks.blocks().device;
        self.machine.submit(&[
            Step::Barrier { device },
            Step::Write { device, offset: FileOffset::ZERO, data: &self.spec.header() },
            Step::Barrier { device },
        ])
    }
}
