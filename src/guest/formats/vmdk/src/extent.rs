//! One extent: a file that holds a part of the disk, plain or in grains behind two levels of tables.

use alloc::format;

use instar_image::machine::display_name;
use instar_image::table::Span;
use instar_image::{DeviceId, Error, FileOffset, Result, Source};

use crate::descriptor::ExtentKind;
use crate::layout::{
    AT_END, COWD_TABLE, CowdHeader, FLAG_MARKERS, FLAG_ZERO_GRAIN, HEADER, MAGIC_COWD, MAGIC_SPARSE, SECTOR,
    SeSparseHeader, SparseHeader, sector_at,
};

/// Newest version of a hosted sparse extent.
const VERSION_MAX: u32 = 3;
/// Most grains that a table maps (QEMU).
const TABLE_MAX: u32 = 512;
/// Largest grain in sectors (QEMU).
const GRAIN_MAX: u64 = 0x20_0000;
/// Largest compressed grain in bytes (instar: it is decompressed in memory).
const COMPRESSED_MAX: u64 = 4 << 20;
/// Most tables (QEMU).
const DIRECTORY_MAX: u64 = 32 << 20;
/// Grains that a seSparse table maps.
const SE_TABLE: u64 = 4096;

/// Grains and where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grains {
    /// Bytes of a grain.
    pub grain: u64,
    /// Grains that a table maps.
    pub table: u64,
    /// The directory.
    pub directory: Span,
    /// The redundant one.
    pub second: Option<Span>,
    /// Behind the header and what belongs to it.
    pub overhead: FileOffset,
    /// How entries are read.
    pub entries: Entries,
    /// Grains are compressed; with markers?
    pub compressed: Option<bool>,
}

/// How the tables' entries are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// Four bytes: sectors of the file.
    Sectors {
        /// An entry of 1 reads as zeroes.
        zeroes: bool,
    },
    /// Eight bytes of a seSparse extent: tables and grains are counted from these places on.
    Numbers {
        /// The first table.
        tables: FileOffset,
        /// The first grain.
        grains: FileOffset,
    },
}

/// How an extent holds its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// As they are, from that place in the file on.
    Flat(FileOffset),
    /// In grains.
    Grains(Grains),
    /// Not at all: it is zeroes.
    Zero,
}

/// One extent: a part of the disk, and the file that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The file.
    pub device: DeviceId,
    /// Its first byte in the disk.
    pub start: u64,
    /// How many bytes of the disk it holds.
    pub len: u64,
    /// How it holds them.
    pub content: Content,
}

impl Part {
    /// The stock tool and instar only read such.
    pub const fn is_se_sparse(&self) -> bool {
        matches!(self.content, Content::Grains(Grains { entries: Entries::Numbers { .. }, .. }))
    }

    /// Zeroes, which need no file; `device`: the image's own.
    pub const fn of_zeroes(device: DeviceId, len: u64) -> Self {
        Self { device, start: 0, len, content: Content::Zero }
    }

    /// The extent in `device`; `len`: in bytes, as the descriptor has it.
    pub fn open(source: &dyn Source, device: DeviceId, name: &[u8], kind: ExtentKind, len: u64) -> Result<Self> {
        match kind {
            ExtentKind::Zero => Ok(Self::of_zeroes(device, len)),
            ExtentKind::Flat(sector, _) => {
                Ok(Self { device, start: 0, len, content: Content::Flat(sector_at(sector)) })
            }
            ExtentKind::Sparse | ExtentKind::VmfsSparse => {
                let mut head = [0; HEADER];
                source.read(device, FileOffset::ZERO, &mut head)?;
                if head.starts_with(MAGIC_SPARSE) {
                    Self::sparse(source, device, name, &head).map(|(part, _)| part)
                } else if head.starts_with(MAGIC_COWD) {
                    Self::cowd(device, &head)
                } else {
                    Err(Error::malformed("Image not in VMDK format"))
                }
            }
            ExtentKind::SeSparse => {
                let mut head = [0; HEADER];
                source.read(device, FileOffset::ZERO, &mut head)?;
                let header = SeSparseHeader::parse(&head)?;
                source.read(device, sector_at(header.volatile), &mut head)?;
                SeSparseHeader::check_volatile(&head)?;
                Self::se_sparse(device, header)
            }
        }
    }

    /// A hosted sparse extent with its header, which may be the footer.
    pub fn sparse(source: &dyn Source, device: DeviceId, name: &[u8], head: &[u8]) -> Result<(Self, SparseHeader)> {
        let mut header = SparseHeader::parse(head)?;
        let end = source.stat(device)?.end();
        if header.directory == AT_END {
            let mut tail = [0; 3 * HEADER];
            if end < FileOffset::new(tail.len() as u64) {
                return Err(Error::malformed("Invalid argument"));
            }
            source.read(device, end - tail.len() as u64, &mut tail)?;
            header = SparseHeader::parse_footer(&tail)?;
        }
        if header.version > VERSION_MAX {
            return Err(Error::unsupported(format!("Unsupported VMDK version {}", header.version)));
        }
        if header.table_entries > TABLE_MAX {
            return Err(Error::malformed("L2 table size too big"));
        }
        let table = u64::from(header.table_entries);
        let reach = table.checked_mul(header.grain).filter(|reach| *reach > 0);
        let reach = reach.ok_or_else(|| Error::malformed("L1 entry size is invalid"))?;
        let least = sector_at(header.overhead);
        if end < least {
            return Err(Error::malformed(format!("File truncated, expecting at least {least} bytes")));
        }
        let entries = Entries::Sectors { zeroes: header.flags & FLAG_ZERO_GRAIN != 0 };
        let directory = directory(source, device, name, header.directory, header.capacity.div_ceil(reach))?;
        let grains = Grains {
            grain: header.grain.saturating_mul(SECTOR),
            table,
            directory,
            second: header.second.map(|at| Span { offset: sector_at(at), count: directory.count }),
            overhead: least,
            entries,
            compressed: header.compressed.then_some(header.flags & FLAG_MARKERS != 0),
        };
        Ok((Self::in_grains(device, header.capacity, grains)?, header))
    }

    /// An ESX copy-on-write extent.
    pub fn cowd(device: DeviceId, head: &[u8]) -> Result<Self> {
        let header = CowdHeader::parse(head)?;
        let directory =
            Span { offset: sector_at(header.directory), count: header.directory_entries.min(DIRECTORY_MAX) };
        let grains = Grains {
            grain: header.grain.saturating_mul(SECTOR),
            table: COWD_TABLE,
            directory,
            second: None,
            overhead: FileOffset::new(HEADER as u64),
            entries: Entries::Sectors { zeroes: false },
            compressed: None,
        };
        if header.directory_entries > DIRECTORY_MAX {
            return Err(Error::malformed("L1 size too big"));
        }
        Self::in_grains(device, header.capacity, grains)
    }

    fn se_sparse(device: DeviceId, header: SeSparseHeader) -> Result<Self> {
        let count = header.directory.1.saturating_mul(SECTOR / 8);
        if count > DIRECTORY_MAX {
            return Err(Error::malformed("L1 size too big"));
        }
        let grains = Grains {
            grain: header.grain.saturating_mul(SECTOR),
            table: SE_TABLE,
            second: None,
            overhead: FileOffset::new(HEADER as u64),
            directory: Span { offset: sector_at(header.directory.0), count },
            entries: Entries::Numbers { tables: sector_at(header.tables.0), grains: sector_at(header.grains) },
            compressed: None,
        };
        Self::in_grains(device, header.capacity, grains)
    }

    fn in_grains(device: DeviceId, capacity: u64, grains: Grains) -> Result<Self> {
        let too_large =
            grains.grain > GRAIN_MAX * SECTOR || (grains.compressed.is_some() && grains.grain > COMPRESSED_MAX);
        if too_large || grains.grain == 0 {
            return Err(Error::malformed("Invalid granularity, image may be corrupt"));
        }
        let len = capacity.checked_mul(SECTOR).filter(|len| *len <= i64::MAX as u64);
        let len = len.ok_or_else(|| Error::malformed("File too large"))?;
        Ok(Self { device, start: 0, len, content: Content::Grains(grains) })
    }
}

fn directory(source: &dyn Source, device: DeviceId, name: &[u8], sector: u64, count: u64) -> Result<Span> {
    if count > DIRECTORY_MAX {
        return Err(Error::malformed("L1 size too big"));
    }
    let offset = sector_at(sector);
    let end = offset.saturating_add(count.saturating_mul(4));
    if end > source.stat(device)?.end().next_multiple_of(SECTOR) {
        let shown = display_name(name);
        return Err(Error::malformed(format!("Could not read l1 table from extent '{shown}'")));
    }
    Ok(Span { offset, count })
}
