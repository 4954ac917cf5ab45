//! From the virtual disk to the file: what the entries of the tables mean.

use instar_image::{DeviceId, Error, Place, Result, levels};

use crate::header::Header;
use crate::layout::{UNALLOCATED, ZERO};

/// Those of one image.
pub struct Entries<'h> {
    /// Its header.
    pub header: &'h Header,
    /// Its device.
    pub device: DeviceId,
    /// Length of the file in whole clusters.
    pub end: u64,
}

impl levels::Entries for Entries<'_> {
    fn check_table(&self, offset: u64) -> Result<()> {
        if self.header.is_table(offset, self.end) { Ok(()) } else { Err(invalid()) }
    }

    fn place(&self, entry: u64) -> Result<Place> {
        match entry {
            UNALLOCATED => Ok(Place::Unallocated),
            ZERO => Ok(Place::Zero { at: None }),
            _ if !self.header.is_cluster(entry, self.end) => Err(invalid()),
            _ => Ok(Place::Data { device: self.device, offset: entry }),
        }
    }
}

/// What the stock tool says of an offset that cannot be.
fn invalid() -> Error {
    Error::malformed("Invalid argument")
}
