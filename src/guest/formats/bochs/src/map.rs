//! From the virtual disk to the file: a catalog of extents, and a bitmap of sectors in each.

use alloc::vec::Vec;

use instar_image::table::TableCache;
use instar_image::{Compressed, DeviceId, Error, Extent, FileOffset, Place, Result, Source};
use spin::Mutex;

use crate::header::Header;
use crate::layout::{EMPTY, SECTOR};

/// The mapping of one image.
pub struct Map<'a> {
    source: &'a dyn Source,
    device: DeviceId,
    held: Mutex<Held<'a>>,
}

/// A piece of the catalog, and the bitmap that was read last.
struct Held<'a> {
    catalog: TableCache<'a, 4>,
    bitmap_at: Option<FileOffset>,
    bitmap: Vec<u8>,
}

impl<'a> Map<'a> {
    /// Nothing is read yet.
    pub const fn new(source: &'a dyn Source, device: DeviceId) -> Self {
        let held = Held { catalog: TableCache::new(source, device), bitmap_at: None, bitmap: Vec::new() };
        Self { source, device, held: Mutex::new(held) }
    }

    /// The extent at `at`, at most `max` bytes.
    pub fn extent(&self, header: &Header, at: u64, max: u64) -> Result<Extent> {
        let left = header.size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let Held { catalog, bitmap_at, bitmap } = &mut *self.held.lock();
        let of_extent = |e: Error| e.losing(header.extent - at % header.extent);
        let mut entries =
            catalog.from(header.catalog, at / header.extent).map_err(of_extent)?.iter().map(|e| u32::from_le_bytes(*e));
        let entry = entries.next().unwrap_or(EMPTY);
        let skip = at % header.extent;
        let rest = header.extent - skip;
        if entry == EMPTY {
            let more = entries.take_while(|e| *e == EMPTY).count() as u64;
            let len = rest.saturating_add(more * header.extent);
            return Ok(Extent { at, len: len.min(left), place: Place::Zero { at: None } });
        }
        let Some(offset) = header.bitmap_at(entry) else {
            // What cannot be is found out when it is read, as with the stock tool: it does not decompress.
            let place = Place::Compressed(Compressed {
                device: self.device,
                offset: FileOffset::ZERO,
                len: 0,
                unit: SECTOR,
                skip: at % SECTOR,
            });
            return Ok(Extent { at, len: (SECTOR - at % SECTOR).min(left), place });
        };
        if *bitmap_at != Some(offset) {
            *bitmap_at = None;
            bitmap.resize(header.bitmap_bytes(), 0);
            self.source.read(self.device, offset, bitmap).map_err(of_extent)?;
            *bitmap_at = Some(offset);
        }
        let first = skip / SECTOR;
        let stored = bit(bitmap, first);
        let same = (first..header.extent / SECTOR).take_while(|n| bit(bitmap, *n) == stored).count() as u64;
        let len = same * SECTOR - skip % SECTOR;
        let place = if stored {
            Place::Data { device: self.device, offset: offset + header.data_skip() + skip }
        } else {
            Place::Zero { at: None }
        };
        Ok(Extent { at, len: len.min(left), place })
    }
}

/// Least significant bits first.
fn bit(bitmap: &[u8], number: u64) -> bool {
    bitmap.get((number / 8) as usize).is_some_and(|byte| byte >> (number % 8) & 1 == 1)
}
