//! From the virtual disk to the file: one map, an entry a block.

use instar_image::pieces::Pieces;
use instar_image::{DeviceId, Error, Extent, Place, Result, Source};
use spin::Mutex;

use crate::header::Header;
use crate::layout::{BLOCK, DISCARDED, UNALLOCATED};

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
        let of_block = |e: Error| e.losing(BLOCK - at % BLOCK);
        let mut entries = pieces.from(header.map, at / BLOCK).map_err(of_block)?.iter().map(|e| u32::from_le_bytes(*e));
        let entry = entries.next().unwrap_or(UNALLOCATED);
        let skip = at % BLOCK;
        let mut len = BLOCK - skip;
        let mut expected = entry;
        while len < left {
            let Some(next) = entries.next() else { break };
            expected = expected.saturating_add(1);
            if (entry < DISCARDED && next != expected) || (entry >= DISCARDED && next < DISCARDED) {
                break;
            }
            len += BLOCK;
        }
        let place = if entry < DISCARDED {
            Place::Data { device: self.device, offset: header.block_at(entry) + skip }
        } else {
            Place::Zero { at: None }
        };
        Ok(Extent { at, len: len.min(left), place })
    }
}
