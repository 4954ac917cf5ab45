//! Where the fields of the binary headers are ("Virtual Disk Format 5.0", sections on hosted sparse extents and on
//! ESX server sparse extents; seSparse as libvmdk's documentation has it). All numbers are little-endian.

use alloc::format;

use instar_image::reader::{Reader, is_zero};
use instar_image::{Error, FileOffset, Result};

/// Bytes of a sector: all places and lengths in headers and descriptors are in sectors.
pub const SECTOR: u64 = 512;
/// Where a sector of a file begins.
pub const fn sector_at(sector: u64) -> FileOffset {
    FileOffset::new(sector.saturating_mul(SECTOR))
}

/// Hosted sparse extents.
pub const MAGIC_SPARSE: &[u8] = b"KDMV";
/// ESX copy-on-write extents.
pub const MAGIC_COWD: &[u8] = b"COWD";
/// Bytes of a header.
pub const HEADER: usize = 512;
/// `gdOffset` of an extent whose header is at its end.
pub const AT_END: u64 = u64::MAX;
/// Entry of a grain table: it reads as zeroes, where the header says that there are such.
pub const ZERO_GRAIN: u32 = 1;
/// There are two directories, each with tables of its own.
pub const FLAG_REDUNDANT: u32 = 1 << 1;
/// [`field::LINE_ENDS`] is there.
pub const FLAG_NEWLINES: u32 = 1;
/// Grains are compressed.
pub const FLAG_COMPRESSED: u32 = 1 << 16;
/// Grain tables have [`ZERO_GRAIN`].
pub const FLAG_ZERO_GRAIN: u32 = 1 << 2;
/// Grains have markers.
pub const FLAG_MARKERS: u32 = 1 << 17;
/// The only compression there is.
const DEFLATE: u16 = 1;
/// Bytes of a grain's marker: its first sector, and how many bytes follow.
pub const MARKER: usize = 12;
/// Type of a footer's marker.
const MARKER_FOOTER: u32 = 3;

/// Byte offsets of the fields of a hosted sparse extent's header.
pub mod field {
    /// 1, 2 or 3.
    pub const VERSION: usize = 4;
    /// `FLAG_*`
    pub const FLAGS: usize = 8;
    /// Length of the disk.
    pub const CAPACITY: usize = 12;
    /// Length of a grain.
    pub const GRAIN: usize = 20;
    /// The descriptor.
    pub const TEXT: usize = 28;
    /// How long it is.
    pub const TEXT_LEN: usize = 36;
    /// Grains that a table maps.
    pub const TABLE: usize = 44;
    /// The redundant directory.
    pub const SECOND: usize = 48;
    /// The directory.
    pub const DIRECTORY: usize = 56;
    /// What is before the first grain.
    pub const OVERHEAD: usize = 64;
    /// Bytes that a transfer as text changes.
    pub const LINE_ENDS: usize = 73;
    /// How grains are compressed.
    pub const COMPRESSION: usize = 77;
}

/// The header of a hosted sparse extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparseHeader {
    /// 1 to 3.
    pub version: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Length of the disk in sectors.
    pub capacity: u64,
    /// Sectors of a grain.
    pub grain: u64,
    /// Sector of the embedded descriptor; 0: there is none.
    pub descriptor: u64,
    /// Sectors that it has.
    pub descriptor_len: u64,
    /// Grains that one table maps.
    pub table_entries: u32,
    /// Sector of the redundant grain directory, where there is one.
    pub second: Option<u64>,
    /// Sector of the grain directory, or [`AT_END`].
    pub directory: u64,
    /// Sectors before the first grain.
    pub overhead: u64,
    /// Grains are compressed.
    pub compressed: bool,
}

impl SparseHeader {
    /// From the first sector.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let r = Reader::new(bytes);
        Ok(Self {
            version: r.le32(field::VERSION)?,
            flags: r.le32(field::FLAGS)?,
            capacity: r.le64(field::CAPACITY)?,
            grain: r.le64(field::GRAIN)?,
            descriptor: r.le64(field::TEXT)?,
            descriptor_len: r.le64(field::TEXT_LEN)?,
            table_entries: r.le32(field::TABLE)?,
            second: if r.le32(field::FLAGS)? & FLAG_REDUNDANT != 0 { Some(r.le64(field::SECOND)?) } else { None },
            directory: r.le64(field::DIRECTORY)?,
            overhead: r.le64(field::OVERHEAD)?,
            compressed: r.le16(field::COMPRESSION)? == DEFLATE,
        })
    }

    /// From the last three sectors of a file whose header says [`AT_END`]: a marker, the header again, the end.
    pub fn parse_footer(bytes: &[u8]) -> Result<Self> {
        let r = Reader::new(bytes);
        let end = 2 * HEADER;
        let marker_fits = r.le32(8)? == 0 && r.le32(12)? == MARKER_FOOTER;
        let end_fits = r.le64(end)? == 0 && r.le32(end + 8)? == 0 && r.le32(end + 12)? == 0;
        let header = bytes.get(HEADER..end).filter(|header| header.starts_with(MAGIC_SPARSE));
        match header {
            Some(header) if marker_fits && end_fits => Self::parse(header),
            _ => Err(Error::malformed("Invalid argument").with_hint("the footer is damaged")),
        }
    }
}

/// The header of an ESX copy-on-write extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CowdHeader {
    /// Length of the disk in sectors.
    pub capacity: u64,
    /// Sectors of a grain.
    pub grain: u64,
    /// Sector of the directory.
    pub directory: u64,
    /// Its entries.
    pub directory_entries: u64,
}

/// Grains that one of its tables maps.
pub const COWD_TABLE: u64 = 4096;

impl CowdHeader {
    /// From the first sector.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let r = Reader::new(bytes);
        Ok(Self {
            capacity: u64::from(r.le32(12)?),
            grain: u64::from(r.le32(16)?),
            directory: u64::from(r.le32(20)?),
            directory_entries: u64::from(r.le32(24)?),
        })
    }
}

/// The constant header of a seSparse extent. Places and lengths in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeSparseHeader {
    /// Length of the disk.
    pub capacity: u64,
    /// Of a grain.
    pub grain: u64,
    /// The header of what changes.
    pub volatile: u64,
    /// The grain directory: where, how long.
    pub directory: (u64, u64),
    /// The grain tables, one after the other.
    pub tables: (u64, u64),
    /// The grains.
    pub grains: u64,
}

/// What a seSparse extent begins with.
const SE_MAGIC: u64 = 0xcafe_babe;
const SE_VERSION: u64 = 0x0000_0002_0000_0001;
/// What its second header begins with.
const SE_VOLATILE_MAGIC: u64 = 0xcafe_cafe;
/// Bytes of the fields of both; what is behind is reserved.
const SE_FIELDS: usize = 208;
const SE_VOLATILE_FIELDS: usize = 32;

impl SeSparseHeader {
    /// From the first sector.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let r = Reader::new(bytes);
        let number = |at: usize| r.le64(at);
        if number(0)? != SE_MAGIC {
            return Err(Error::malformed(format!("Bad const header magic: {:#018x}", number(0)?)));
        }
        if number(8)? != SE_VERSION {
            return Err(Error::unsupported(format!("Unsupported version: {:#018x}", number(8)?)));
        }
        let fixed = [(24, 8, "grain size"), (32, 64, "grain table size")];
        for (at, only, what) in fixed {
            if number(at)? != only {
                return Err(Error::unsupported(format!("Unsupported {what}: {}", number(at)?)));
            }
        }
        if number(40)? != 0 {
            return Err(Error::unsupported(format!("Unsupported flags: {:#018x}", number(40)?)));
        }
        let [a, b, c, d] = [number(48)?, number(56)?, number(64)?, number(72)?];
        if a | b | c | d != 0 {
            let text = format!("Unsupported reserved bits: {a:#018x} {b:#018x} {c:#018x} {d:#018x}");
            return Err(Error::unsupported(text));
        }
        if !is_zero(bytes.get(SE_FIELDS..).unwrap_or_default()) {
            return Err(Error::unsupported("Unsupported non-zero const header padding"));
        }
        let header = Self {
            capacity: r.le64(16)?,
            grain: r.le64(24)?,
            volatile: r.le64(80)?,
            directory: (r.le64(128)?, r.le64(136)?),
            tables: (r.le64(144)?, r.le64(152)?),
            grains: r.le64(192)?,
        };
        Ok(header)
    }

    /// Checks the other header, of what changes.
    pub fn check_volatile(bytes: &[u8]) -> Result<()> {
        let r = Reader::new(bytes);
        if r.le64(0)? != SE_VOLATILE_MAGIC {
            return Err(Error::malformed(format!("Bad volatile header magic: {:#018x}", r.le64(0)?)));
        }
        if r.le64(24)? != 0 {
            return Err(Error::unsupported("Image is dirty, Replaying journal not supported"));
        }
        if !is_zero(bytes.get(SE_VOLATILE_FIELDS..).unwrap_or_default()) {
            return Err(Error::unsupported("Unsupported non-zero volatile header padding"));
        }
        Ok(())
    }
}
