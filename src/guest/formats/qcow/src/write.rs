//! Making qcow images: clusters are placed in the order in which their data comes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_codec::Deflater;
use instar_crypto::qcow::{KEY_SECRET, Key, Method};
use instar_image::levels::{LevelWriter, Levels};
use instar_image::options::{OptionKind, OptionSpec, of_file};
use instar_image::sealed::Placed;
use instar_image::table::Span;
use instar_image::write::{Compressor, Encrypter, Piece, Target, Writer};
use instar_image::{Backing, CreateContext, Creator, Error, FileOffset, Machine, Result, Step};

use crate::encrypted;
use crate::layout::{BACKING_NAME_MAX, COMPRESSED, ENTRIES_MAX, ENTRY, HEADER_LEN, MAGIC_1, SECTOR, field, plain};

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "backing_file", kind: OptionKind::Text, help: "File name of a base image" },
    OptionSpec { name: "backing_fmt", kind: OptionKind::Text, help: "Format of the backing image" },
    OptionSpec { name: "encrypt.format", kind: OptionKind::Text, help: "Encrypt the image, format choices: 'aes'" },
    OptionSpec {
        name: "encrypt.key-secret",
        kind: OptionKind::Text,
        help: "ID of the secret that provides the AES encryption key",
    },
    OptionSpec {
        name: "encryption",
        kind: OptionKind::Bool,
        help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    },
    of_file::EXTENT_SIZE_HINT,
    of_file::NOCOW,
    of_file::PREALLOCATION,
    OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size" },
];

/// The options in the order of "Formatting ..".
pub const SHOWN: &[(&str, Option<&str>)] = &[
    ("size", None),
    ("backing_file", None),
    ("backing_fmt", None),
    ("encryption", None),
    ("encrypt.format", None),
    ("encrypt.key-secret", None),
];

/// Bits of an offset in a cluster, and of an index in an L2 table.
const ALONE: (u32, u32) = (12, 9);
/// The same over a backing file: what is copied from it for a write is as little as can be.
const BACKED: (u32, u32) = (9, 12);

/// A new disk.
struct Spec {
    /// Size in bytes.
    size: u64,
    cluster_bits: u32,
    l2_bits: u32,
    backing: Option<Backing>,
    encrypted: bool,
}

impl Spec {
    /// From what the user said.
    fn read(cx: &CreateContext<'_, '_>) -> Result<Self> {
        let encrypted = match Method::read(cx.options)? {
            Method::None => false,
            Method::Aes => true,
            Method::Luks => return Err(Error::usage("Unsupported encryption format")),
        };
        of_file::check_preallocation(cx.options)?;
        let size = cx.size;
        if size == 0 {
            return Err(Error::usage("Image size is too small, cannot be zero length"));
        }
        let size = size.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        let backing = cx.backing.clone();
        let (cluster_bits, l2_bits) = if backing.is_some() { BACKED } else { ALONE };
        let spec = Self { size, cluster_bits, l2_bits, backing, encrypted };
        // QEMU makes what it does not open then.
        if spec.entries() > ENTRIES_MAX {
            return Err(Error::usage("Image too large"));
        }
        if spec.name().len() > BACKING_NAME_MAX as usize {
            return Err(Error::usage("Backing file name too long"));
        }
        Ok(spec)
    }

    fn name(&self) -> &[u8] {
        self.backing.as_ref().map_or(&[], |b| &b.name)
    }

    /// Entries of the L1 table.
    const fn entries(&self) -> u64 {
        self.size.div_ceil(1 << (self.cluster_bits + self.l2_bits))
    }

    /// Where the L1 table is, behind the backing file's name.
    fn l1(&self) -> FileOffset {
        FileOffset::new((HEADER_LEN as u64 + self.name().len() as u64).next_multiple_of(8))
    }

    /// Bytes of the header and the backing file's name.
    fn header(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![0; HEADER_LEN];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        put(0, MAGIC_1);
        put(field::SIZE, &self.size.to_be_bytes());
        put(field::CLUSTER_BITS, &[self.cluster_bits as u8, self.l2_bits as u8]);
        put(field::CRYPT_METHOD, &u32::from(self.encrypted).to_be_bytes());
        put(field::L1_OFFSET, &self.l1().get().to_be_bytes());
        if !self.name().is_empty() {
            put(field::BACKING_OFFSET, &(HEADER_LEN as u64).to_be_bytes());
            put(field::BACKING_LEN, &(self.name().len() as u32).to_be_bytes());
            bytes.extend_from_slice(self.name());
        }
        bytes
    }
}

/// Makes them.
pub struct QcowCreator;

impl Creator for QcowCreator {
    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx)?;
        let (machine, device) = (cx.machine, cx.device);
        let secret = cx.options.get(KEY_SECRET);
        let key = spec.encrypted.then(|| instar_crypto::qcow::key(machine.source(), secret)).transpose()?;
        let levels = Levels {
            device,
            size: spec.size,
            cluster: 1 << spec.cluster_bits,
            l1: Span { offset: spec.l1(), count: spec.entries() },
            copy: None,
            scale: 1,
            l2_entries: 1 << spec.l2_bits,
            big_endian: true,
            table_first: true,
            room: (FileOffset::new(HEADER_LEN as u64), SECTOR),
            plain,
            backed: spec.backing.is_some(),
            zero: None,
        };
        // Written in whole sectors.
        let end = spec.l1() + (spec.entries() * ENTRY).next_multiple_of(SECTOR);
        machine.submit(&[Step::Zero { device, offset: FileOffset::ZERO, len: end.get(), unmap: false }])?;
        Ok(Box::new(QcowWriter { machine, spec, key, clusters: LevelWriter::new(machine, levels, end)? }))
    }
}

struct QcowWriter<'a> {
    machine: &'a dyn Machine,
    spec: Spec,
    key: Option<Key>,
    clusters: LevelWriter<'a>,
}

impl Writer for QcowWriter<'_> {
    fn target(&self) -> Target {
        let unit = 1 << self.spec.cluster_bits;
        Target::Allocated { unit, zero_unit: unit, zeroed: self.spec.backing.is_none() }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        match piece {
            Piece::Compressed(bytes) => place_compressed(&self.clusters, self.spec.cluster_bits, at, bytes, steps),
            _ => encrypted::place(&self.clusters, self.key.as_ref(), at, piece, steps),
        }
    }

    fn encrypter(&self) -> Option<&dyn Encrypter> {
        self.key.as_ref().map(|key| key as &dyn Encrypter)
    }

    fn compressor(&self) -> Option<Box<dyn Compressor + '_>> {
        Some(compressor())
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

/// Places a compressed cluster: in whole sectors, as QEMU does, whose entry holds its length.
pub fn place_compressed<'p>(
    clusters: &LevelWriter<'_>,
    cluster_bits: u32,
    at: u64,
    bytes: &'p [u8],
    steps: &mut Vec<Placed<'p>>,
) -> Result<()> {
    let len = (bytes.len() as u64) << (63 - cluster_bits);
    clusters.place_compressed(at, (Vec::new(), bytes), SECTOR, |offset| COMPRESSED | len | offset.get(), steps)
}

/// The library's own level 6 trades size for speed; this one's output is as small as stock zlib's at its level 6.
const LEVEL: i32 = 7;
/// As QEMU compresses: no reader needs more than 4 KiB to look back into.
const WINDOW_BITS: u8 = 12;

/// A worker's own.
pub fn compressor() -> Box<dyn Compressor> {
    Box::new(QcowCompressor(Deflater::new(LEVEL, WINDOW_BITS)))
}

/// Deflate without a header.
struct QcowCompressor(Deflater);

impl Compressor for QcowCompressor {
    fn compress(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        Ok(self.0.deflate(unit, out, unit.len().saturating_sub(1)))
    }
}
