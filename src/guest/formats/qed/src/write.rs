//! Making QED images: clusters are placed in the order in which their data comes.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use instar_image::levels::{LevelWriter, Levels};
use instar_image::options::{OptionKind, OptionSpec, Options, of_file};
use instar_image::sealed::Placed;
use instar_image::table::Span;
use instar_image::values::size;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{Backing, CreateContext, Creator, Error, FileOffset, Machine, Result, Step};

use crate::layout::{
    CLUSTER_DEFAULT, CLUSTER_MAX, CLUSTER_MIN, ENTRY, HEADER_LEN, MAGIC, SECTOR, TABLE_DEFAULT, TABLE_MAX, TABLE_MIN,
    ZERO, feature, field, is_cluster_size, is_table_size, plain,
};

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "backing_file", kind: OptionKind::Text, help: "File name of a base image" },
    OptionSpec { name: "backing_fmt", kind: OptionKind::Text, help: "Image format of the base image" },
    OptionSpec { name: "cluster_size", kind: OptionKind::Size, help: "Cluster size (in bytes)" },
    of_file::EXTENT_SIZE_HINT,
    of_file::NOCOW,
    of_file::PREALLOCATION,
    OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size" },
    OptionSpec { name: "table_size", kind: OptionKind::Size, help: "L1/L2 table size (in clusters)" },
];

/// The options in the order of "Formatting ..".
pub const SHOWN: &[(&str, Option<&str>)] = &[
    ("size", None),
    ("backing_file", None),
    ("backing_fmt", None),
    ("cluster_size", Some("65536")),
    ("table_size", None),
];

/// A new disk.
struct Spec {
    /// Size in bytes, in whole sectors.
    size: u64,
    /// Bytes of a cluster.
    cluster: u64,
    /// Clusters of a table.
    table: u64,
    backing: Option<Backing>,
}

impl Spec {
    /// From what the user said.
    fn read(cx: &CreateContext<'_, '_>) -> Result<Self> {
        let number = |name, default| cx.options.get(name).map_or(Ok(default), |text| size(name, text));
        let (cluster, table) = (number("cluster_size", CLUSTER_DEFAULT)?, number("table_size", TABLE_DEFAULT)?);
        of_file::check_preallocation(cx.options)?;
        let range = |what, least, most| {
            Error::usage(format!("QED {what} size must be within range [{least}, {most}] and power of 2"))
        };
        if !is_cluster_size(cluster) {
            return Err(range("cluster", CLUSTER_MIN, CLUSTER_MAX));
        }
        if !is_table_size(table) {
            return Err(range("table", TABLE_MIN, TABLE_MAX));
        }
        // As QEMU counts: of the largest tables what 64 bits hold, which is nothing.
        let entries = cluster * table / ENTRY;
        let most = entries.wrapping_mul(entries).wrapping_mul(cluster);
        let size = cx.size.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        if size > most {
            return Err(Error::usage(format!(
                "QED image size must be a non-zero multiple of cluster size and less than {most} bytes"
            )));
        }
        let backing = cx.backing.clone();
        if backing.as_ref().is_some_and(|b| HEADER_LEN as u64 + b.name.len() as u64 > cluster) {
            return Err(Error::usage("Backing file name too long"));
        }
        Ok(Self { size, cluster, table, backing })
    }

    /// Bytes of the first cluster up to the backing file's name and all.
    fn header(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![0; HEADER_LEN];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        put(0, MAGIC);
        put(field::CLUSTER_SIZE, &(self.cluster as u32).to_le_bytes());
        put(field::TABLE_SIZE, &(self.table as u32).to_le_bytes());
        // Clusters of the header.
        put(field::HEADER_SIZE, &1u32.to_le_bytes());
        put(field::L1_OFFSET, &self.cluster.to_le_bytes());
        put(field::IMAGE_SIZE, &self.size.to_le_bytes());
        if let Some(Backing { name, format }) = &self.backing {
            let raw = if format.as_deref() == Some("raw") { feature::BACKING_RAW } else { 0 };
            put(field::FEATURES, &(feature::BACKING | raw).to_le_bytes());
            put(field::BACKING_OFFSET, &(HEADER_LEN as u32).to_le_bytes());
            put(field::BACKING_LEN, &(name.len() as u32).to_le_bytes());
            bytes.extend_from_slice(name);
        }
        bytes
    }
}

/// Makes them.
pub struct QedCreator;

impl Creator for QedCreator {
    fn can_be_filled(&self, options: &Options, _size: u64) -> Result<()> {
        match options.get("table_size").map(|text| size("table_size", text)) {
            // QEMU takes a table of a single cluster for one that is too long.
            Some(Ok(1)) => Err(Error::malformed("QED table offset is invalid")),
            _ => Ok(()),
        }
    }

    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx)?;
        let (machine, device) = (cx.machine, cx.device);
        if machine.stat(device)?.block_device {
            // Its clusters come at the end of the file, which a device does not have.
            return Err(Error::unsupported("Cannot resize device files"));
        }
        // Behind the header's cluster.
        let first = FileOffset::new(spec.cluster);
        let l2_entries = spec.cluster * spec.table / ENTRY;
        let levels = Levels {
            device,
            size: spec.size,
            cluster: spec.cluster,
            l1: Span { offset: first, count: l2_entries },
            copy: None,
            scale: 1,
            l2_entries,
            big_endian: false,
            table_first: false,
            room: (first, spec.cluster),
            plain,
            backed: spec.backing.is_some(),
            zero: Some(ZERO),
        };
        let end = first + spec.cluster * spec.table;
        if !machine.stat(device)?.fresh {
            machine.submit(&[Step::Zero { device, offset: FileOffset::ZERO, len: spec.cluster, unmap: true }])?;
        }
        let (offset, len) = (first, spec.cluster * spec.table);
        machine.submit(&[Step::Zero { device, offset, len, unmap: false }])?;
        Ok(Box::new(QedWriter { machine, spec, clusters: LevelWriter::new(machine, levels, end)? }))
    }
}

struct QedWriter<'a> {
    machine: &'a dyn Machine,
    spec: Spec,
    clusters: LevelWriter<'a>,
}

impl Writer for QedWriter<'_> {
    fn target(&self) -> Target {
        let unit = self.spec.cluster;
        Target::Allocated { unit, zero_unit: unit, zeroed: self.spec.backing.is_none() }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        self.clusters.place(at, piece, steps)
    }

    fn is_full(&self) -> bool {
        self.clusters.is_full()
    }

    fn settle(&self) -> Result<()> {
        self.clusters.settle()
    }

    fn finish(&self) -> Result<()> {
        self.settle()?;
        let device = self.clusters.levels().device;
        self.machine.submit(&[
            Step::Barrier { device },
            Step::Write { device, offset: FileOffset::ZERO, data: &self.spec.header() },
            Step::Barrier { device },
        ])
    }
}
