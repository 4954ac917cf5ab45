//! The header, parsed once into checked values.

use alloc::format;

use instar_image::reader::Reader;
use instar_image::table::Span;
use instar_image::{Error, FileOffset, OpenContext, Result};

use crate::layout::{
    CATALOG_MAX, ENTRY, EXTENT_MAX, HEADER_LEN, KIND, MAGIC, SECTOR, SUBKIND, VERSION_1, VERSION_2, field,
};

/// What the header says.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Virtual size in bytes, in whole sectors.
    pub size: u64,
    /// Bytes of an extent.
    pub extent: u64,
    /// The catalog.
    pub catalog: Span,
    /// Where the first extent is.
    data: FileOffset,
    /// Sectors of an extent's bitmap in the file.
    bitmap_sectors: u64,
}

/// Whether `head` is that of an image that can be read.
pub fn is_known(head: Reader<'_>) -> bool {
    let is = |(at, text): (usize, &[u8])| head.bytes(at, text.len()).is_ok_and(|b| b == text);
    let known = is((0, MAGIC)) && is(KIND) && is(SUBKIND);
    known && head.le32(field::VERSION).is_ok_and(|v| v == VERSION_1 || v == VERSION_2)
}

impl Header {
    /// Reads and checks it, in the order in which the stock tool does.
    pub fn read(cx: &OpenContext<'_, '_>) -> Result<Self> {
        let mut head = [0; HEADER_LEN];
        cx.source.read(cx.device, FileOffset::ZERO, &mut head)?;
        let read = Reader::new(&head);
        if !is_known(read) {
            return Err(Error::malformed("Image not in Bochs format"));
        }
        let disk = if read.le32(field::VERSION)? == VERSION_1 { field::DISK_1 } else { field::DISK_2 };
        let size = read.le64(disk)? / SECTOR * SECTOR;
        let entries = read.le32(field::CATALOG)?;
        if entries > CATALOG_MAX {
            return Err(Error::limit("Catalog size is too large"));
        }
        let bytes = read.le32(field::EXTENT)?;
        if u64::from(bytes) < SECTOR {
            return Err(Error::malformed("Extent size must be at least 512"));
        }
        if !bytes.is_power_of_two() {
            return Err(Error::malformed(format!("Extent size {bytes} is not a power of two")));
        }
        if bytes > EXTENT_MAX {
            return Err(Error::limit(format!("Extent size {bytes} is too large")));
        }
        let extent = u64::from(bytes);
        if u64::from(entries) < size.div_ceil(extent) {
            return Err(Error::malformed("Catalog size is too small for this disk size"));
        }
        // An empty bitmap counts as one of 4 GiB, as QEMU's arithmetic has it.
        let bitmap_sectors = u64::from(read.le32(field::BITMAP)?.wrapping_sub(1)) / SECTOR + 1;
        let start = read.le32(field::HEADER)?;
        let catalog = Span { offset: FileOffset::from(start), count: u64::from(entries) };
        // In 32 bits, as QEMU has it.
        let data = FileOffset::from(start.wrapping_add(entries * ENTRY));
        Ok(Self { size, extent, catalog, data, bitmap_sectors })
    }

    /// Where the bitmap is of the extent that a catalog entry says; `None`: no file can be that long.
    pub fn bitmap_at(&self, entry: u32) -> Option<FileOffset> {
        let stride = self.bitmap_sectors.checked_mul(SECTOR)?.checked_add(self.extent)?;
        let at = self.data.checked_add(stride.checked_mul(u64::from(entry))?)?;
        at.checked_add(stride).filter(|end| *end <= FileOffset::END_MAX).map(|_| at)
    }

    /// Bytes of an extent's bitmap that are in use.
    pub const fn bitmap_bytes(&self) -> usize {
        (self.extent / SECTOR).div_ceil(8) as usize
    }

    /// Bytes from an extent's bitmap to its first sector.
    pub const fn data_skip(&self) -> u64 {
        self.bitmap_sectors * SECTOR
    }
}
