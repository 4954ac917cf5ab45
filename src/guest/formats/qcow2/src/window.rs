//! Reading small things one after the other, and long tables some entries at a time, without crossing to the host for
//! each.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::damage::Damage;
use instar_image::table::{Span, TableCache};
use instar_image::{DeviceId, Error, FileOffset, Result, Source};

/// Bytes fetched at first: headers and extensions nearly always fit.
const FIRST: usize = 4096;
/// Bytes fetched each time the first do not suffice.
const NEXT: usize = 65536;

/// A view of a device that remembers the last piece read. Past the end of the device is zeroes; what cannot be read is an
/// error only for who wants it.
pub struct Window<'a> {
    source: &'a dyn Source,
    device: DeviceId,
    at: FileOffset,
    bytes: Vec<u8>,
    damage: Damage,
}

impl<'a> Window<'a> {
    /// Nothing is read yet.
    pub const fn new(source: &'a dyn Source, device: DeviceId) -> Self {
        Self { source, device, at: FileOffset::ZERO, bytes: Vec::new(), damage: Damage::none() }
    }

    /// `len` bytes from `offset` on. The caller has bounded `len`.
    pub fn bytes(&mut self, offset: FileOffset, len: usize) -> Result<&[u8]> {
        let held = offset.checked_since(self.at).and_then(|skip| usize::try_from(skip).ok());
        let fits = held.and_then(|skip| skip.checked_add(len)).is_some_and(|end| end <= self.bytes.len());
        let skip = if fits { held.unwrap_or_default() } else { self.fetch(offset, len) };
        self.damage.good_until(skip, len)?;
        skip.checked_add(len)
            .and_then(|end| self.bytes.get(skip..end))
            .ok_or_else(|| Error::malformed("structure is cut short"))
    }

    fn fetch(&mut self, offset: FileOffset, len: usize) -> usize {
        let least = if offset == FileOffset::ZERO { FIRST } else { NEXT };
        self.bytes = vec![0; len.max(least)];
        self.at = offset;
        let (source, device) = (self.source, self.device);
        let read = |skip, buf: &mut [u8]| source.read(device, offset.saturating_add(skip as u64), buf);
        self.damage = Damage::read(offset.get(), &mut self.bytes, read);
        0
    }
}

/// Entries of a table of 64-bit numbers in the file, some at a time.
pub fn numbers(
    source: &dyn Source,
    device: DeviceId,
    offset: FileOffset,
    count: u64,
    act: &mut dyn FnMut(u64, &[u64]) -> Result<()>,
) -> Result<()> {
    TableCache::<8>::new(source, device).each(Span { offset, count }, |first, entries| {
        act(first, &entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect::<Vec<u64>>())
    })
}
