//! The metadata region: what the disk is like ([MS-VHDX] 2.6).

use alloc::vec;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::table::Bytes;
use instar_image::windows::{local_name, utf16_le};
use instar_image::{Backing, Error, FileOffset, OpenContext, Result, limits};

use crate::error::{invalid, unsupported};
use crate::layout::{BLOCK_SIZES, ENTRIES_MAX, SIZE_MAX, TABLE, item};
use crate::regions::Range;
use crate::view::View;

const SIGNATURE: &[u8] = b"metadata";
/// Bytes of the table's header, and of an entry.
pub const HEADER: usize = 32;
pub const ENTRY: usize = 32;
/// Bytes of the smallest logical sector.
const SECTOR: u64 = 512;
const REQUIRED: u32 = 4;
/// Flags of the file parameters.
pub const LEAVE_ALLOCATED: u32 = 1;
pub const HAS_PARENT: u32 = 2;
/// Bytes that a parent locator may have: six names of Windows' greatest length.
const LOCATOR_MAX: u32 = 1 << 20;
/// The keys of a parent locator that are names, the better first.
const NAMES: [&str; 3] = ["relative_path", "absolute_win32_path", "volume_path"];

/// What the disk is like.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// Bytes of a payload block.
    pub block: u64,
    /// Payload blocks of the disk.
    pub blocks: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a sector of the disk: sector bitmaps count in them.
    pub sector: u64,
    /// The parent of a differencing disk.
    pub backing: Option<Backing>,
    /// Blocks keep their places, as those of a fixed disk do.
    pub leaves_allocated: bool,
    /// Byte offset of the disk's size.
    pub size_at: FileOffset,
}

/// Where items are, by their identifiers: offset in the region, length.
struct Items {
    known: [Option<(u32, u32)>; 6],
}

const KNOWN: [[u8; 16]; 6] = [
    item::FILE_PARAMETERS,
    item::DISK_SIZE,
    item::DISK_ID,
    item::LOGICAL_SECTOR,
    item::PHYSICAL_SECTOR,
    item::PARENT_LOCATOR,
];

impl Items {
    fn read(cx: &OpenContext<'_, '_>, view: &View<'_>, region: Range) -> Result<Self> {
        let mut table = vec![0; TABLE];
        view.read_at(region.at, &mut table)?;
        let count = Reader::new(&table).le16(10)?;
        if !table.starts_with(SIGNATURE) || count > ENTRIES_MAX {
            return Err(invalid(cx));
        }
        let mut items = Self { known: [None; 6] };
        for number in 0..usize::from(count) {
            let r = Reader::new(table.get(HEADER + number * ENTRY..).unwrap_or_default());
            let guid = r.array::<16>(0)?;
            let (offset, len, flags) = (r.le32(16)?, r.le32(20)?, r.le32(24)?);
            match KNOWN.iter().position(|k| *k == guid) {
                Some(known) => {
                    if let Some(place) = items.known.get_mut(known)
                        && place.replace((offset, len)).is_some()
                    {
                        return Err(invalid(cx));
                    }
                }
                None if flags & REQUIRED != 0 => return Err(unsupported(cx)),
                None => {}
            }
        }
        Ok(items)
    }

    /// The item number `known`: its file offset and length.
    fn place(&self, known: usize, region: Range) -> Option<(FileOffset, u32)> {
        let (offset, len) = self.known.get(known).copied().flatten()?;
        Some((region.at.saturating_add(offset.into()), len))
    }
}

impl Metadata {
    /// Reads and checks the items.
    pub fn read(cx: &OpenContext<'_, '_>, view: &View<'_>, region: Range) -> Result<Self> {
        let items = Items::read(cx, view, region)?;
        let parent_at = items.place(5, region);
        let needed = [0, 1, 2, 3, 4].map(|known| items.place(known, region).map(|(at, _)| at));
        let [Some(parameters_at), Some(size_at), Some(_), Some(sector_at), Some(_)] = needed else {
            return Err(unsupported(cx));
        };
        // The stock tool knows no parents.
        if parent_at.is_some() && cx.source.is_stock() {
            return Err(unsupported(cx));
        }
        let (mut parameters, mut size, mut sector) = ([0; 8], [0; 8], [0; 4]);
        view.read_at(parameters_at, &mut parameters)?;
        view.read_at(size_at, &mut size)?;
        view.read_at(sector_at, &mut sector)?;
        let r = Reader::new(&parameters);
        let (block, flags) = (u64::from(r.le32(0)?), r.le32(4)?);
        let differencing = flags & HAS_PARENT != 0;
        if differencing && parent_at.is_none() {
            return Err(invalid(cx));
        }
        let sector = u64::from(u32::from_le_bytes(sector));
        let sector_known = sector == SECTOR || (sector == 4096 && !cx.source.is_stock());
        if !sector_known {
            return Err(unsupported(cx));
        }
        let size = u64::from_le_bytes(size);
        if !block.is_power_of_two() || !BLOCK_SIZES.contains(&block) || size > SIZE_MAX {
            return Err(invalid(cx));
        }
        let backing = match parent_at {
            Some((at, len)) if differencing => Some(parent(view, at, len)?),
            _ => None,
        };
        // What is smaller than a sector at the end is not shown.
        Ok(Self {
            block,
            blocks: size.div_ceil(block),
            size: size / SECTOR * SECTOR,
            sector,
            backing,
            leaves_allocated: flags & LEAVE_ALLOCATED != 0,
            size_at,
        })
    }
}

/// The parent that the locator of `len` bytes at `at` names. The host's policy decides whether it is opened.
fn parent(view: &View<'_>, at: FileOffset, len: u32) -> Result<Backing> {
    if len > LOCATOR_MAX {
        return Err(Error::limit("the parent locator is too long"));
    }
    let mut bytes = vec![0; len as usize];
    view.read_at(at, &mut bytes)?;
    let r = Reader::new(&bytes);
    let count = usize::from(r.le16(18)?);
    let mut names: [Option<Vec<u8>>; 3] = [const { None }; 3];
    for number in 0..count {
        let entry = Reader::new(r.bytes(20 + number * 12, 12)?);
        let text = |at: usize, len: usize| -> Result<&[u8]> {
            r.bytes(entry.le32(at)? as usize, usize::from(entry.le16(len)?))
        };
        let key = utf16_le(text(0, 8)?);
        if let Some(known) = NAMES.iter().position(|n| *n == key)
            && let Some(place) = names.get_mut(known)
        {
            *place = Some(local_name(&utf16_le(text(4, 10)?)));
        }
    }
    let name = names.into_iter().flatten().find(|n| !n.is_empty());
    let name = name.ok_or_else(|| Error::malformed("the differencing disk does not name its parent"))?;
    if name.len() > limits::BACKING_NAME_MAX {
        return Err(Error::malformed("Backing file name too long"));
    }
    Ok(Backing { name, format: Some("vhdx".into()) })
}
