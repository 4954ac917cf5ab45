//! One extent: a file that holds a part of the disk, plain or in grains behind two levels of tables.

use alloc::format;

use instar_image::machine::display_name;
use instar_image::runs::RunMap;
use instar_image::table::{Span, TableCache};
use instar_image::{Compressed, DeviceId, Error, Extent, FileOffset, Place, Result, Source};

use crate::descriptor::ExtentKind;
use crate::layout::{
    AT_END, COWD_TABLE, CowdHeader, FLAG_MARKERS, FLAG_ZERO_GRAIN, HEADER, MAGIC_COWD, MAGIC_SPARSE, MARKER, SECTOR,
    SeSparseHeader, SparseHeader, ZERO_GRAIN, sector_at,
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

/// What one grain is.
enum Grain {
    None,
    Zero,
    At(FileOffset),
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

/// Bytes that the file has from there on; fails if there is none.
fn held(bound: Option<FileOffset>, offset: FileOffset) -> Result<u64> {
    match bound.map_or(u64::MAX, |end| end.saturating_since(offset)) {
        0 => Err(Error::malformed("Input/output error")),
        held => Ok(held),
    }
}

/// A window on the tables of one extent.
pub struct Tables<'a> {
    /// Directory and table of four-byte entries; and the redundant ones.
    short: [[TableCache<'a, 4>; 2]; 2],
    long: [TableCache<'a, 8>; 2],
    /// End of the file, of an image that may be damaged: what refers to a place behind it is wrong, and the redundant
    /// tables are asked.
    bound: Option<FileOffset>,
    /// Data and holes of the file.
    runs: RunMap<'a>,
}

impl<'a> Tables<'a> {
    /// Nothing is read yet; `len`: of the file, which may be damaged.
    pub fn new(source: &'a dyn Source, device: DeviceId, len: u64, damaged: bool) -> Self {
        let short = || [TableCache::new(source, device), TableCache::new(source, device)];
        Self {
            runs: RunMap::new(source, device, len),
            short: [short(), short()],
            long: [TableCache::new(source, device), TableCache::new(source, device)],
            bound: damaged.then_some(FileOffset::new(len)),
        }
    }

    /// The table that maps the grain, if there is one. `redundant`: as the second directory has it.
    fn table(&mut self, grains: &Grains, number: u64, redundant: bool) -> Result<Option<Span>> {
        let index = number / grains.table;
        let offset = match grains.entries {
            Entries::Sectors { .. } => {
                let [short, _] = self.short_of(redundant);
                let entry = short.entry(grains.directory, index)?.map_or(0, u32::from_le_bytes);
                (entry != 0).then(|| sector_at(u64::from(entry)))
            }
            Entries::Numbers { tables, .. } => {
                const IS_TABLE: u64 = 0x1000_0000_0000_0000;
                let entry = self.long[0].entry(grains.directory, index)?.map_or(0, u64::from_le_bytes);
                if entry != 0 && entry & 0xffff_ffff_0000_0000 != IS_TABLE {
                    return Err(Error::malformed("Input/output error"));
                }
                let number = entry & 0xffff_ffff;
                (entry != 0).then(|| tables.saturating_add(number.saturating_mul(grains.table * 8)))
            }
        };
        if let Some(offset) = offset {
            held(self.bound, offset)?;
        }
        Ok(offset.map(|offset| Span { offset, count: grains.table }))
    }

    const fn short_of(&mut self, redundant: bool) -> &mut [TableCache<'a, 4>; 2] {
        let [first, second] = &mut self.short;
        if redundant { second } else { first }
    }

    fn grain(entries: Entries, grain: u64, entry: u64) -> Result<Grain> {
        Ok(match entries {
            Entries::Sectors { zeroes } => match entry {
                0 => Grain::None,
                _ if entry == u64::from(ZERO_GRAIN) && zeroes => Grain::Zero,
                _ => Grain::At(sector_at(entry)),
            },
            Entries::Numbers { grains, .. } => match entry >> 60 {
                0 => Grain::None,
                1 | 2 => Grain::Zero,
                3 => {
                    let number = (entry & 0x0fff_0000_0000_0000) >> 48 | (entry & 0x0000_ffff_ffff_ffff) << 12;
                    Grain::At(grains.saturating_add(number.saturating_mul(grain)))
                }
                _ => return Err(Error::malformed("Input/output error")),
            },
        })
    }

    /// The extent at byte `at` of the part, at most `max` bytes.
    pub fn extent(&mut self, part: &Part, at: u64, max: u64) -> Result<Extent> {
        let left = part.len.saturating_sub(at).min(max);
        let Part { device, content, .. } = *part;
        let grains = match content {
            Content::Flat(offset) => {
                let offset = offset.saturating_add(at);
                let run = self.runs.run(offset)?;
                let place = match run.data {
                    true => Place::Data { device, offset },
                    false => Place::Zero { at: Some((device, offset)) },
                };
                return Ok(Extent { at, len: left.min(run.len.max(1)), place });
            }
            Content::Zero => return Ok(Extent { at, len: left, place: Place::Zero { at: None } }),
            Content::Grains(grains) => grains,
        };
        match (self.in_grains(part, &grains, at, left, false), grains.second) {
            (Err(error), Some(directory)) if self.bound.is_some() => {
                let redundant = Grains { directory, ..grains };
                self.in_grains(part, &redundant, at, left, true).map_err(|_| error)
            }
            (found, _) => found,
        }
    }

    fn in_grains(&mut self, part: &Part, grains: &Grains, at: u64, left: u64, redundant: bool) -> Result<Extent> {
        let (device, bound) = (part.device, self.bound);
        let (number, skip) = (at / grains.grain, at % grains.grain);
        let Some(table) = self.table(grains, number, redundant)? else {
            let reach = grains.table.saturating_mul(grains.grain);
            return Ok(Extent { at, len: (reach - at % reach).min(left), place: Place::Unallocated });
        };
        let first = number % grains.table;
        let mut short = [].iter();
        let mut long = [].iter();
        match grains.entries {
            Entries::Sectors { .. } => {
                let [_, pieces] = self.short_of(redundant);
                short = pieces.from(table, first)?.iter();
            }
            Entries::Numbers { .. } => long = self.long[1].from(table, first)?.iter(),
        }
        let mut next = || {
            short
                .next()
                .map(|e| u64::from(u32::from_le_bytes(*e)))
                .or_else(|| long.next().map(|e| u64::from_le_bytes(*e)))
        };
        let here = Self::grain(grains.entries, grains.grain, next().unwrap_or(0))?;
        let left = match here {
            Grain::At(offset) if grains.compressed.is_some() => held(bound, offset).map(|_| left)?,
            Grain::At(offset) => held(bound, offset.saturating_add(skip))?.min(left),
            Grain::None | Grain::Zero => left,
        };
        let mut len = grains.grain - skip;
        if let (Grain::At(offset), Some(markers)) = (&here, grains.compressed) {
            // How long it is stands before it: at most where the next one begins.
            let most = 2 * grains.grain + if markers { MARKER as u64 } else { 0 };
            let behind = next().and_then(|e| sector_at(e).checked_since(*offset)).filter(|n| *n > 0);
            // The last grain may be stored as far as the disk reaches only.
            let unit = grains.grain.min(part.len.saturating_sub(at - skip));
            let compressed = Compressed { device, offset: *offset, len: behind.unwrap_or(most).min(most), unit, skip };
            return Ok(Extent { at, len: len.min(left), place: Place::Compressed(compressed) });
        }
        // As long as the same goes on.
        let mut count = 1u64;
        while len < left {
            let Some(entry) = next() else { break };
            // A bad entry is reported when it is its turn.
            let goes_on = match (&here, Self::grain(grains.entries, grains.grain, entry)) {
                (Grain::None, Ok(Grain::None)) | (Grain::Zero, Ok(Grain::Zero)) => true,
                (Grain::At(a), Ok(Grain::At(b))) => a.saturating_add(count.saturating_mul(grains.grain)) == b,
                _ => false,
            };
            if !goes_on {
                break;
            }
            count += 1;
            len = len.saturating_add(grains.grain);
        }
        let place = match here {
            Grain::None => Place::Unallocated,
            Grain::Zero => Place::Zero { at: None },
            Grain::At(offset) => Place::Data { device, offset: offset.saturating_add(skip) },
        };
        Ok(Extent { at, len: len.min(left), place })
    }
}
