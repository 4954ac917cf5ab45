//! The bitmap directory; what the bitmaps say is in [`content`].

mod content;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::reader::Reader;
use instar_image::{DeviceId, DirtyBitmap, Error, FileOffset, Result, Source, Value};

use crate::extensions::text;
use crate::header::Header;
use crate::layout::{AUTOCLEAR_BITMAPS, FILE_OFFSET_MAX};
use crate::window::{Window, numbers};

/// Most bitmaps (QEMU).
pub const COUNT_MAX: u32 = 65535;
/// Largest directory in bytes (QEMU).
pub const DIRECTORY_MAX: u64 = 1024 * COUNT_MAX as u64;
/// Bytes of all names together (instar: what is kept in memory).
pub const NAMES_MAX: usize = 8 << 20;
/// Fixed part of an entry in bytes.
const ENTRY: usize = 24;
/// Longest name in bytes (QEMU).
pub const NAME_MAX: usize = 1023;
/// Largest bitmap in bytes (QEMU).
pub const BITMAP_MAX: u64 = 512 << 20;
/// Largest bitmap table in entries (QEMU).
pub const TABLE_MAX: u32 = 0x800_0000;
/// How many bytes a bit may stand for, as powers of two (spec, "Bitmap directory").
pub const GRANULARITY_BITS: core::ops::RangeInclusive<u8> = 9..=31;
/// So many bytes of bits that follow each other are read or written at once.
pub const AT_ONCE: u64 = 1 << 20;
/// The only type there is.
const DIRTY_TRACKING: u8 = 1;
/// It is inconsistent, unless a program has it open.
pub const FLAG_IN_USE: u32 = 1;
/// It follows every change of the disk.
pub const FLAG_AUTO: u32 = 1 << 1;
/// Said where the bitmaps are stale, by version of the format.
const WARNING_LOST: &str = "a program lacking bitmap support modified this file, so all bitmaps are now considered \
                            inconsistent\nSome clusters may be leaked, run 'qemu-img check -r' on the image file to \
                            fix.";
const WARNING_V2: &str = "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without \
                          persistent bitmap support; so now they must all be considered inconsistent\nSome clusters \
                          may be leaked, run 'qemu-img check -r' on the image file to fix.";

/// The header extension: where the directory is.
#[derive(Clone, Copy, Debug)]
pub struct Directory {
    /// Where it is.
    pub offset: FileOffset,
    /// In bytes.
    pub size: u64,
    count: u32,
}

impl Directory {
    /// From the extension's content; or a warning: the bitmaps are stale and are not looked at.
    pub fn parse(content: &[u8], header: &Header) -> Result<core::result::Result<Self, &'static str>> {
        if content.len() != ENTRY {
            return Err(Error::malformed("bitmaps_ext: Invalid extension length"));
        }
        if header.autoclear & AUTOCLEAR_BITMAPS == 0 {
            return Ok(Err(if header.version < 3 { WARNING_V2 } else { WARNING_LOST }));
        }
        let r = Reader::new(content);
        let (count, reserved, size, offset) = (r.be32(0)?, r.be32(4)?, r.be64(8)?, FileOffset::new(r.be64(16)?));
        if reserved != 0 {
            return Err(Error::malformed("bitmaps_ext: Reserved field is not zero"));
        }
        if count > COUNT_MAX {
            return Err(Error::limit(format!(
                "bitmaps_ext: Image has {count} bitmaps, exceeding the QEMU supported maximum of {COUNT_MAX}"
            )));
        }
        if count == 0 {
            return Err(Error::malformed("found bitmaps extension with zero bitmaps"));
        }
        if !offset.is_multiple_of(header.cluster_size()) {
            return Err(Error::malformed("bitmaps_ext: invalid bitmap directory offset"));
        }
        if size > DIRECTORY_MAX {
            return Err(Error::limit(format!(
                "bitmaps_ext: bitmap directory size ({size}) exceeds the maximum supported size ({DIRECTORY_MAX})"
            )));
        }
        Ok(Ok(Self { offset, size, count }))
    }

    /// One of `count` entries in `size` bytes at `offset`.
    pub fn new(offset: FileOffset, size: u64, count: u32) -> Result<Self> {
        if count > COUNT_MAX || size > DIRECTORY_MAX {
            return Err(Error::limit("Too many bitmaps"));
        }
        Ok(Self { offset, size, count })
    }

    /// The extension's content.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = self.count.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.size.to_be_bytes());
        bytes.extend_from_slice(&self.offset.get().to_be_bytes());
        bytes
    }
}

/// One bitmap.
#[derive(Clone, Debug)]
pub struct Bitmap {
    /// Its name.
    pub name: Vec<u8>,
    /// Bits `FLAG_*`.
    pub flags: u32,
    /// A bit stands for so many bytes, as a power of two.
    pub granularity_bits: u8,
    /// Where its table is, and how many entries that has.
    pub table: (FileOffset, u64),
    /// Where its entry in the directory is.
    pub entry_at: FileOffset,
}

impl Bitmap {
    /// Without its bits.
    pub fn shown(&self) -> DirtyBitmap {
        DirtyBitmap {
            name: self.name.clone(),
            granularity_bits: self.granularity_bits,
            auto: self.flags & FLAG_AUTO != 0,
            inconsistent: self.flags & FLAG_IN_USE != 0,
        }
    }

    /// As `info` shows it.
    pub fn describe(&self) -> Value {
        let known = [(FLAG_IN_USE, "in-use"), (FLAG_AUTO, "auto")];
        let flags = known.into_iter().filter(|(bit, _)| self.flags & bit != 0).map(|(_, name)| Value::from(name));
        let mut map = Value::map();
        map.set("flags", flags.collect::<Vec<_>>())
            .set("name", self.name.as_slice())
            .set("granularity", 1u64.unbounded_shl(u32::from(self.granularity_bits)));
        map
    }
}

/// An entry of a table for a cluster of ones that has no place.
pub const ALL_ONES: u64 = 1;

/// What an entry of a bitmap's table says: where a cluster is, or 0 where all bits are the same. `None`: it
/// says nothing that has a meaning (spec, "Bitmap table").
pub const fn cluster(entry: u64, cluster_size: u64) -> Option<FileOffset> {
    const RESERVED: u64 = 0xff00_0000_0000_01fe;
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let offset = entry & OFFSET;
    if entry & RESERVED != 0 || (offset != 0 && (!offset.is_multiple_of(cluster_size) || entry & ALL_ONES != 0)) {
        return None;
    }
    Some(FileOffset::new(offset))
}

/// What opening an image for any purpose does with its bitmaps, but for those in use, which are not loaded.
pub fn load(bitmaps: &[Bitmap], source: &dyn Source, device: DeviceId, header: &Header) -> Result<()> {
    let cluster_size = header.cluster_size();
    for bitmap in bitmaps.iter().filter(|b| b.flags & FLAG_IN_USE == 0) {
        let (offset, entries) = bitmap.table;
        let name = String::from_utf8_lossy(&bitmap.name);
        let failed = |what: &str| Error::malformed(format!("Could not read {what}"));
        let table = |why: &str| failed(&format!("bitmap_table table from image for bitmap '{name}': {why}"));
        if offset.saturating_add(entries.saturating_mul(8)) > FILE_OFFSET_MAX {
            return Err(table("Input/output error"));
        }
        numbers(source, device, offset, entries, &mut |_, numbers| {
            let fine = numbers.iter().all(|entry| cluster(*entry, cluster_size).is_some());
            if fine { Ok(()) } else { Err(table("Invalid argument")) }
        })?;
        // One bit a granule, in whole clusters.
        let bits = header.size.div_ceil(1u64.unbounded_shl(u32::from(bitmap.granularity_bits)));
        if entries != bits.div_ceil(8).div_ceil(cluster_size) {
            return Err(failed(&format!("bitmap '{name}' from image: Invalid argument")));
        }
    }
    Ok(())
}

/// Reads the whole directory.
pub fn read(window: &mut Window<'_>, directory: Directory, header: &Header) -> Result<Vec<Bitmap>> {
    let Directory { offset, size, count } = directory;
    if size == 0 {
        return Err(Error::malformed("Requested bitmap directory size is zero"));
    }
    if offset.checked_add(size).is_none_or(|end| end > FILE_OFFSET_MAX) {
        return Err(Error::malformed("Failed to read bitmap directory: Input/output error"));
    }
    let mut bitmaps: Vec<Bitmap> = Vec::new();
    let (mut at, mut names) = (0u64, 0usize);
    while at < size {
        let left = size.saturating_sub(at);
        let head = take(window, offset.saturating_add(at), left, ENTRY)?.first_chunk::<ENTRY>().copied();
        let head = head.ok_or_else(broken)?;
        let entry = Entry::parse(&Reader::new(&head))?;
        let body = entry.extra_len.saturating_add(entry.name_len);
        let len = (ENTRY as u64).saturating_add(body as u64).next_multiple_of(8);
        if len > left {
            return Err(broken());
        }
        if entry.extra_len != 0 {
            return Err(Error::unsupported("Bitmap extra data is not supported"));
        }
        if bitmaps.len() >= count as usize {
            return Err(Error::malformed("More bitmaps found than specified in header extension"));
        }
        let start = offset.saturating_add(at).saturating_add(ENTRY as u64);
        let name = text(take(window, start, left, entry.name_len)?);
        entry.check(&name, header)?;
        names = names.saturating_add(name.len());
        if names > NAMES_MAX {
            return Err(Error::limit("the names of the bitmaps are too long"));
        }
        bitmaps.push(Bitmap {
            name,
            flags: entry.flags,
            granularity_bits: entry.granularity_bits,
            table: (entry.table_offset, u64::from(entry.table_size)),
            entry_at: offset.saturating_add(at),
        });
        at = at.saturating_add(len);
    }
    if bitmaps.len() < count as usize {
        return Err(Error::malformed("Less bitmaps found than specified in header extension"));
    }
    check_names(&bitmaps)?;
    Ok(bitmaps)
}

fn broken() -> Error {
    Error::malformed("Broken bitmap directory")
}

/// `len` bytes of the directory at `at`, of which `left` bytes are left.
fn take<'w>(window: &'w mut Window<'_>, at: FileOffset, left: u64, len: usize) -> Result<&'w [u8]> {
    if len as u64 > left {
        return Err(broken());
    }
    window.bytes(at, len)
}

fn check_names(bitmaps: &[Bitmap]) -> Result<()> {
    let mut names: Vec<&[u8]> = bitmaps.iter().map(|b| b.name.as_slice()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair.first() == pair.last()).and_then(<[&[u8]]>::first) {
        Some(name) => Err(Error::malformed(format!("Bitmap already exists: {}", String::from_utf8_lossy(name)))),
        None => Ok(()),
    }
}

/// Sets or clears bits of a bitmap's cluster.
pub fn fill(bytes: &mut [u8], bits: Range<u64>, set: bool) {
    let mut at = bits.start;
    while at < bits.end {
        let stop = (at / 8 + 1).saturating_mul(8).min(bits.end);
        if at.is_multiple_of(8) && bits.end - at >= 8 {
            let whole = at / 8..bits.end / 8;
            if let Some(bytes) = bytes.get_mut(whole.start as usize..whole.end as usize) {
                bytes.fill(if set { 0xff } else { 0 });
            }
            at = whole.end * 8;
            continue;
        }
        let mask = (at % 8..at % 8 + (stop - at)).fold(0u8, |mask, bit| mask | 1 << bit);
        if let Some(byte) = bytes.get_mut((at / 8) as usize) {
            *byte = if set { *byte | mask } else { *byte & !mask };
        }
        at = stop;
    }
}

/// Bytes of an entry of the directory with a name of so many.
pub const fn entry_len(name: usize) -> u64 {
    (ENTRY as u64).saturating_add(name as u64).next_multiple_of(8)
}

/// An entry of the directory.
pub fn encode_entry(bitmap: &Bitmap) -> Vec<u8> {
    let mut bytes = bitmap.table.0.get().to_be_bytes().to_vec();
    bytes.extend_from_slice(&u32::try_from(bitmap.table.1).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&bitmap.flags.to_be_bytes());
    bytes.extend_from_slice(&[DIRTY_TRACKING, bitmap.granularity_bits]);
    bytes.extend_from_slice(&u16::try_from(bitmap.name.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&bitmap.name);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

struct Entry {
    table_offset: FileOffset,
    table_size: u32,
    flags: u32,
    kind: u8,
    granularity_bits: u8,
    name_len: usize,
    extra_len: usize,
}

impl Entry {
    fn parse(r: &Reader<'_>) -> Result<Self> {
        Ok(Self {
            table_offset: FileOffset::new(r.be64(0)?),
            table_size: r.be32(8)?,
            flags: r.be32(12)?,
            kind: r.u8(16)?,
            granularity_bits: r.u8(17)?,
            name_len: usize::from(r.be16(18)?),
            extra_len: r.be32(20)? as usize,
        })
    }

    fn check(&self, name: &[u8], header: &Header) -> Result<()> {
        let cluster = header.cluster_size();
        let bytes = u64::from(self.table_size).saturating_mul(cluster);
        let in_use = self.flags & FLAG_IN_USE != 0;
        let covered = u128::from(bytes).saturating_mul(8).unbounded_shl(u32::from(self.granularity_bits));
        let fine = self.table_size != 0
            && self.table_size <= TABLE_MAX
            && self.table_offset != FileOffset::ZERO
            && self.table_offset.is_multiple_of(cluster)
            && GRANULARITY_BITS.contains(&self.granularity_bits)
            && self.flags & !(FLAG_IN_USE | FLAG_AUTO) == 0
            && self.name_len <= NAME_MAX
            && self.kind == DIRTY_TRACKING
            && bytes <= BITMAP_MAX
            && (in_use || u128::from(header.size) <= covered);
        if !fine {
            let shown = String::from_utf8_lossy(name);
            return Err(Error::malformed(format!("Bitmap '{shown}' doesn't satisfy the constraints")));
        }
        Ok(())
    }
}

/// Whether all bitmaps can follow a change of the disk's size.
pub fn check_resize(bitmaps: &[Bitmap]) -> Result<()> {
    match bitmaps.iter().find(|bitmap| bitmap.flags & FLAG_IN_USE != 0) {
        None => Ok(()),
        Some(bitmap) => Err(Error::unsupported(format!(
            "Bitmap '{}' is inconsistent and cannot be used\nTry block-dirty-bitmap-remove to delete this bitmap from disk",
            String::from_utf8_lossy(&bitmap.name)
        ))),
    }
}
