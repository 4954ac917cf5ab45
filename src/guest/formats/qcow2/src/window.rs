//! Reading small things one after the other without crossing to the host for each.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::{DeviceId, Error, Result, Source};

/// Bytes fetched at first: headers and extensions nearly always fit.
const FIRST: usize = 4096;
/// Bytes fetched each time the first do not suffice.
const NEXT: usize = 65536;

/// A view of a device that remembers the last piece read. Past the end of the device is zeroes.
pub struct Window<'a> {
    source: &'a dyn Source,
    device: DeviceId,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    /// Nothing is read yet.
    pub const fn new(source: &'a dyn Source, device: DeviceId) -> Self {
        Self { source, device, at: 0, bytes: Vec::new() }
    }

    /// `len` bytes from `offset` on. The caller has bounded `len`.
    pub fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let held = offset.checked_sub(self.at).and_then(|skip| usize::try_from(skip).ok());
        let fits = held.and_then(|skip| skip.checked_add(len)).is_some_and(|end| end <= self.bytes.len());
        let skip = if fits { held.unwrap_or_default() } else { self.fetch(offset, len)? };
        skip.checked_add(len)
            .and_then(|end| self.bytes.get(skip..end))
            .ok_or_else(|| Error::malformed("structure is cut short"))
    }

    fn fetch(&mut self, offset: u64, len: usize) -> Result<usize> {
        let least = if offset == 0 { FIRST } else { NEXT };
        self.bytes = vec![0; len.max(least)];
        self.at = offset;
        self.source.read(self.device, offset, &mut self.bytes)?;
        Ok(0)
    }
}
