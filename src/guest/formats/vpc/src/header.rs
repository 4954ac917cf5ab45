//! The footer and the dynamic disk header.

use alloc::format;
use alloc::vec::Vec;

use instar_image::blocks::Blocks;
use instar_image::machine::display_name;
use instar_image::reader::Reader;
use instar_image::table::Span;
use instar_image::{DeviceId, Error, FileOffset, OpenContext, Result, Source, Version};

use crate::layout::{
    COOKIE, DYNAMIC_COOKIE, DYNAMIC_HEADER, ENTRIES_MAX, FOOTER, LOCATOR, LOCATORS, MAX_GEOMETRY, MAX_SECTORS, SECTOR,
    bitmap_len, checksum, dynamic, footer, is_absent, put,
};
use crate::write::geometry::{self, LARGEST};

/// What kind of disk a footer says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The disk's bytes, then the footer.
    Fixed,
    /// Blocks that are allocated when written; also what says it is anything unheard of.
    Dynamic,
    /// The same over a parent.
    Differencing,
}

/// A footer, checked.
#[derive(Clone, Debug)]
pub struct Footer {
    /// What kind of disk.
    pub kind: Kind,
    /// Where the dynamic disk header is.
    pub data_offset: FileOffset,
    /// Size of the disk in bytes.
    pub size: u64,
    /// It is at the beginning of the file (else at the end).
    pub at_start: bool,
    /// Its bytes.
    pub bytes: [u8; FOOTER],
}

/// Creators of disks whose geometry may be smaller than they are.
const BY_SIZE: [&[u8; 4]; 5] = [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS"];

/// How the size of a disk is found out: `force_size_calc` of `--image-opts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeRule {
    /// By the creator.
    Auto,
    /// Cylinders times heads times sectors.
    Geometry,
    /// The footer's current size.
    CurrentSize,
}

impl SizeRule {
    /// From the driver options.
    pub fn of(options: &[(alloc::string::String, alloc::string::String)]) -> Result<Self> {
        match options.iter().rev().find(|(key, _)| key == "force_size_calc").map(|(_, value)| value.as_str()) {
            None => Ok(Self::Auto),
            Some("chs") => Ok(Self::Geometry),
            Some("current_size") => Ok(Self::CurrentSize),
            Some(mode) => Err(Error::usage(format!("Invalid size calculation mode: '{mode}'"))),
        }
    }

    /// Whether the geometry is the size: products that write a geometry which is smaller than the disk are known by
    /// their creator field. Up to 9.2 all others were taken to be like Virtual PC, later ones only Virtual PC itself
    /// and QEMU.
    fn by_geometry(self, creator: [u8; 4], version: Version) -> bool {
        match self {
            Self::Geometry => true,
            Self::CurrentSize => false,
            Self::Auto if version >= Version::V10_0 => matches!(&creator, b"vpc " | b"qemu"),
            Self::Auto => !BY_SIZE.contains(&&creator),
        }
    }
}

/// End of the file as QEMU counts it: in whole sectors.
pub fn file_end(source: &dyn Source, device: DeviceId) -> Result<FileOffset> {
    let end = source.stat(device)?.end();
    end.checked_next_multiple_of(SECTOR).ok_or_else(|| Error::limit("File too large"))
}

impl Footer {
    /// Finds the footer: a dynamic disk begins with one, others have it at the end only. Under our own name, the one at
    /// the end stands in for one at the beginning that is damaged.
    pub fn read(cx: &OpenContext<'_, '_>) -> Result<Self> {
        let file_end = file_end(cx.source, cx.device)?;
        let (mut head, mut tail) = ([0; FOOTER], [0; FOOTER]);
        cx.source.read(cx.device, FileOffset::ZERO, &mut head)?;
        // Nobody who has the one at the beginning needs the other: where it cannot be read, it is none.
        let read = cx.source.read(cx.device, file_end.saturating_sub(SECTOR), &mut tail);
        if read.is_err() {
            tail.fill(0);
        }
        let rule = SizeRule::of(cx.options)?;
        let end = || Self::parse(&tail, false, rule, cx);
        let is_whole = |f: &[u8]| f.starts_with(COOKIE) && is_sound(f);
        if head.starts_with(COOKIE) {
            let start = Self::parse(&head, true, rule, cx);
            return match start {
                Err(_) if !cx.source.is_stock() && !is_sound(&head) && is_whole(&tail) => end(),
                start => start,
            };
        }
        if file_end < FileOffset::new(SECTOR) {
            return Err(Error::malformed("File too small for a VHD header"));
        }
        read?;
        let is_fixed = Reader::new(&tail).be32(footer::TYPE)? == 2;
        // Releases up to 5.2 take whatever kind is said at the end.
        let taken = is_fixed || cx.version <= Version::V5_2 || (!cx.source.is_stock() && is_whole(&tail));
        if !tail.starts_with(COOKIE) || !taken {
            return Err(Error::malformed("invalid VPC image"));
        }
        end()
    }

    fn parse(bytes: &[u8; FOOTER], at_start: bool, rule: SizeRule, cx: &OpenContext<'_, '_>) -> Result<Self> {
        if !is_sound(bytes) {
            return Err(Error::malformed("Incorrect header checksum"));
        }
        let r = Reader::new(bytes);
        let geometry =
            u64::from(r.be16(footer::CYLINDERS)?) * u64::from(r.u8(footer::HEADS)?) * u64::from(r.u8(footer::SECTORS)?);
        let by_geometry = rule.by_geometry(r.array(footer::CREATOR)?, cx.version) && geometry != MAX_GEOMETRY;
        let sectors = if by_geometry { geometry } else { r.be64(footer::CURRENT_SIZE)? / SECTOR };
        if sectors > MAX_SECTORS {
            return Err(Error::limit(format!("Could not open '{}': File too large", display_name(cx.name))));
        }
        let kind = match r.be32(footer::TYPE)? {
            2 => Kind::Fixed,
            // The stock tool does not know parents.
            4 if !cx.source.is_stock() => Kind::Differencing,
            _ => Kind::Dynamic,
        };
        let data_offset = FileOffset::new(r.be64(footer::DATA_OFFSET)?);
        Ok(Self { kind, data_offset, size: sectors * SECTOR, at_start, bytes: *bytes })
    }

    /// The same for a disk of another size, in bytes: whatever a reader goes by, it tells that size.
    pub fn resized(&self, size: u64) -> [u8; FOOTER] {
        let mut bytes = self.bytes;
        let creator = bytes.get(footer::CREATOR..).and_then(|b| b.first_chunk::<4>()).copied().unwrap_or_default();
        let (cylinders, heads, sectors) = match &creator {
            b"qem2" => LARGEST,
            by_size if BY_SIZE.contains(&by_size) => geometry::of(size / SECTOR),
            _ => geometry::exactly(size / SECTOR),
        };
        put(&mut bytes, footer::CURRENT_SIZE, &size.to_be_bytes());
        put(&mut bytes, footer::CYLINDERS, &cylinders.to_be_bytes());
        put(&mut bytes, footer::HEADS, &[heads, sectors]);
        let sum = checksum(&bytes, footer::CHECKSUM);
        put(&mut bytes, footer::CHECKSUM, &sum.to_be_bytes());
        bytes
    }
}

fn is_sound(bytes: &[u8]) -> bool {
    Reader::new(bytes).be32(footer::CHECKSUM).is_ok_and(|sum| sum == checksum(bytes, footer::CHECKSUM))
}

/// A dynamic disk header, checked.
#[derive(Clone, Debug)]
pub struct Dynamic {
    /// Where the block allocation table is.
    pub table: FileOffset,
    /// Its entries.
    pub entries: u64,
    /// Bytes of a block.
    pub block: u64,
    /// The header's own sum is right.
    pub sound: bool,
    /// Its bytes: names of the parent are in it.
    pub bytes: Vec<u8>,
}

impl Dynamic {
    /// The one of a disk without blocks.
    pub const fn none() -> Self {
        Self { table: FileOffset::ZERO, entries: 0, block: SECTOR, sound: true, bytes: Vec::new() }
    }

    /// Reads and checks the one of `of`.
    pub fn read(cx: &OpenContext<'_, '_>, of: &Footer) -> Result<Self> {
        let fits = of.data_offset.checked_add(DYNAMIC_HEADER as u64).is_some_and(|end| end <= FileOffset::END_MAX);
        if !fits {
            return Err(Error::malformed("Error reading dynamic VHD header"));
        }
        let mut bytes = alloc::vec![0; DYNAMIC_HEADER];
        cx.source.read(cx.device, of.data_offset, &mut bytes)?;
        let r = Reader::new(&bytes);
        if !bytes.starts_with(DYNAMIC_COOKIE) {
            return Err(Error::malformed("Invalid header magic"));
        }
        let block = r.be32(dynamic::BLOCK_SIZE)?;
        if !block.is_power_of_two() || u64::from(block) < SECTOR {
            return Err(Error::malformed(format!("Invalid block size {block}")));
        }
        let entries = r.be32(dynamic::MAX_ENTRIES)?;
        if u64::from(entries) > ENTRIES_MAX {
            return Err(Error::limit(format!("Max Table Entries too large ({entries})")));
        }
        if u64::from(entries) * u64::from(block) < of.size {
            return Err(Error::malformed("Page table too small"));
        }
        let table = FileOffset::new(r.be64(dynamic::TABLE_OFFSET)?);
        let end = table.checked_add(u64::from(entries) * 4);
        if end.is_none_or(|end| end > FileOffset::END_MAX) {
            return Err(Error::malformed("Error reading pagetable"));
        }
        let sound = r.be32(dynamic::CHECKSUM)? == checksum(&bytes, dynamic::CHECKSUM);
        Ok(Self { table, entries: entries.into(), block: block.into(), sound, bytes })
    }

    /// The table, of a disk of `size` bytes on `device`: blocks with their bitmaps, which stand before them.
    pub const fn blocks(&self, device: DeviceId, size: u64) -> Blocks {
        Blocks {
            device,
            size,
            block: bitmap_len(self.block) + self.block,
            table: Span { offset: self.table, count: self.entries },
            base: FileOffset::ZERO,
            scale: SECTOR,
            absent: is_absent,
            big_endian: true,
            backed: false,
        }
    }

    /// Its bytes with the table elsewhere. What changes lies in their first sector.
    pub fn with_table(&self, table: Span) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        put(&mut bytes, dynamic::TABLE_OFFSET, &table.offset.get().to_be_bytes());
        // Bounded by `ENTRIES_MAX`.
        put(&mut bytes, dynamic::MAX_ENTRIES, &(table.count as u32).to_be_bytes());
        let sum = checksum(&bytes, dynamic::CHECKSUM);
        put(&mut bytes, dynamic::CHECKSUM, &sum.to_be_bytes());
        bytes
    }

    /// Where the texts of parent locators lie, and where they end.
    pub fn locators(&self) -> impl Iterator<Item = (FileOffset, FileOffset)> + '_ {
        (0..LOCATORS).filter_map(|number| {
            let locator = self.bytes.get(dynamic::LOCATORS + number * LOCATOR..)?.get(..LOCATOR)?;
            let r = Reader::new(locator);
            let (space, len, at) = (r.be32(4).ok()?, r.be32(8).ok()?, FileOffset::new(r.be64(16).ok()?));
            let end = at.saturating_add(space.max(len).into());
            (r.be32(0).ok()? != 0).then_some((at, end))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Geometry and sizes, in sectors, of the footer of a disk that gets `sectors`.
    fn resized(creator: &[u8; 4], sectors: u64) -> (u64, u64, u64) {
        let mut bytes = [0; FOOTER];
        put(&mut bytes, footer::CREATOR, creator);
        put(&mut bytes, footer::ORIGINAL_SIZE, &(10 * SECTOR).to_be_bytes());
        let (kind, size, at_start) = (Kind::Dynamic, 10 * SECTOR, true);
        let new = Footer { kind, data_offset: FileOffset::new(512), size, at_start, bytes }.resized(sectors * SECTOR);
        assert!(is_sound(&new));
        let r = Reader::new(&new);
        let number = |at: usize| u64::from_be_bytes(r.array(at).expect("it is there"));
        let [a, b, heads, track] = r.array(footer::CYLINDERS).expect("it is there");
        let geometry = u64::from(u16::from_be_bytes([a, b])) * u64::from(heads) * u64::from(track);
        (geometry, number(footer::CURRENT_SIZE) / SECTOR, number(footer::ORIGINAL_SIZE) / SECTOR)
    }

    #[test]
    fn readers_find_the_new_size_by_whatever_they_go() {
        // 820 cylinders of 5 heads and 17 sectors are a geometry; one sector more is none.
        for (creator, sectors, geometry) in [
            (b"qemu", 820 * 5 * 17, 820 * 5 * 17),
            (b"qemu", 820 * 5 * 17 + 1, MAX_GEOMETRY),
            (b"vpc ", 820 * 5 * 17 + 1, MAX_GEOMETRY),
            (b"abcd", 820 * 5 * 17 + 1, MAX_GEOMETRY),
            (b"qem2", 820 * 5 * 17, MAX_GEOMETRY),
            (b"win ", 820 * 5 * 17 + 1, 820 * 5 * 17),
        ] {
            assert_eq!(resized(creator, sectors), (geometry, sectors, 10), "{creator:?} {sectors}");
        }
    }
}
