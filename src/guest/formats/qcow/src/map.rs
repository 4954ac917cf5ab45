//! From the virtual disk to the file: what the entries of the tables mean.

use instar_image::{Compressed, DeviceId, FileOffset, Place, Result, levels};

use crate::header::Header;
use crate::layout::{COMPRESSED, SECTOR};

/// Those of one image.
pub struct Entries<'h> {
    /// Its header.
    pub header: &'h Header,
    /// Its device.
    pub device: DeviceId,
}

impl levels::Entries for Entries<'_> {
    fn place(&self, entry: u64) -> Result<Place> {
        let (device, unit, plain) = (self.device, self.header.cluster(), FileOffset::new(entry));
        Ok(if entry & COMPRESSED != 0 {
            let shift = 63 - self.header.cluster_bits;
            let (offset, len) = (FileOffset::new(entry & ((1 << shift) - 1)), (entry >> shift) & (unit - 1));
            Place::Compressed(Compressed { device, offset, len, unit, skip: 0 })
        } else if !entry.is_multiple_of(SECTOR) || entry > COMPRESSED - unit {
            // What cannot be is found out when it is read, as with the stock tool: it does not decompress.
            Place::Compressed(Compressed { device, offset: FileOffset::ZERO, len: 0, unit, skip: 0 })
        } else if entry == 0 {
            Place::Unallocated
        } else if self.header.encrypted {
            Place::Encrypted { device, offset: plain }
        } else {
            Place::Data { device, offset: plain }
        })
    }
}
