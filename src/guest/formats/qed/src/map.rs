//! From the virtual disk to the file: what the entries of the tables mean.

use instar_image::{DeviceId, Error, FileOffset, Place, Result, levels};

use crate::header::Header;
use crate::layout::{UNALLOCATED, ZERO};

/// Those of one image.
pub struct Entries<'h> {
    /// Its header.
    pub header: &'h Header,
    /// Its device.
    pub device: DeviceId,
    /// End of the file in whole clusters.
    pub end: FileOffset,
}

impl levels::Entries for Entries<'_> {
    fn check_table(&self, offset: FileOffset) -> Result<()> {
        if self.header.is_table(offset, self.end) { Ok(()) } else { Err(invalid()) }
    }

    fn place(&self, entry: u64) -> Result<Place> {
        let offset = match entry {
            UNALLOCATED => return Ok(Place::Unallocated),
            ZERO => return Ok(Place::Zero { at: None }),
            offset => FileOffset::new(offset),
        };
        if !self.header.is_cluster(offset, self.end) {
            return Err(invalid());
        }
        Ok(Place::Data { device: self.device, offset })
    }
}

/// What the stock tool says of an offset that cannot be.
fn invalid() -> Error {
    Error::malformed("Invalid argument")
}
