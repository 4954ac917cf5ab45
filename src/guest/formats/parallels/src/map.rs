//! From the virtual disk to the file: one map, an entry a cluster.

use instar_image::pieces::Pieces;
use instar_image::{DeviceId, Error, Extent, Place, Result, Source};
use spin::Mutex;

use crate::header::Header;

/// The mapping of one image.
pub struct Map<'a> {
    device: DeviceId,
    pieces: Mutex<Pieces<'a, 4>>,
}

impl<'a> Map<'a> {
    /// Nothing is read yet.
    pub const fn new(source: &'a dyn Source, device: DeviceId) -> Self {
        Self { device, pieces: Mutex::new(Pieces::new(source, device)) }
    }

    /// The extent at `at`, at most `max` bytes.
    pub fn extent(&self, header: &Header, at: u64, max: u64) -> Result<Extent> {
        let left = header.size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let mut pieces = self.pieces.lock();
        let of_cluster = |e: Error| e.losing(header.cluster - at % header.cluster);
        let mut entries =
            pieces.from(header.map, at / header.cluster).map_err(of_cluster)?.iter().map(|e| u32::from_le_bytes(*e));
        let Some(entry) = entries.next() else {
            // The map is too short for the disk.
            return Ok(Extent { at, len: left, place: Place::Unallocated });
        };
        let skip = at % header.cluster;
        let mut len = header.cluster - skip;
        let place = header.place(entry);
        let mut expected = place;
        let step = if place == 0 { 0 } else { header.cluster };
        while len < left {
            expected = expected.saturating_add(step);
            if entries.next().map(|e| header.place(e)) != Some(expected) {
                break;
            }
            len = len.saturating_add(header.cluster);
        }
        let place = match place {
            0 => Place::Unallocated,
            offset => Place::Data { device: self.device, offset: offset.saturating_add(skip) },
        };
        Ok(Extent { at, len: len.min(left), place })
    }
}
