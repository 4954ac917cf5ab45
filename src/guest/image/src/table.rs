//! Tables of fixed-width entries, read in pieces.

use alloc::vec;
use alloc::vec::Vec;

use crate::damage::Damage;
use crate::{DeviceId, Result, Source};

/// Bytes that are held of a table.
const PIECE: u64 = 65536;

/// What a table is read from.
pub trait Bytes {
    /// Reads from byte `offset` on; zeroes past the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// A device as it is.
pub struct OnDevice<'a>(&'a dyn Source, DeviceId);

impl Bytes for OnDevice<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read(self.1, offset, buf)
    }
}

/// A table on a device.
pub type Table<'a, const N: usize> = TableOver<OnDevice<'a>, N>;

/// A table of entries of `N` bytes. One piece is held, so a walk from front to back crosses to the host once for each
/// piece, and memory does not grow with the image. Of what cannot be read, only the entries that lie there are lost.
pub struct TableOver<B, const N: usize> {
    bytes: B,
    /// Byte offset of the table.
    offset: u64,
    entries: u64,
    /// First entry that is held.
    first: u64,
    held: Vec<u8>,
    damage: Damage,
}

impl<'a, const N: usize> Table<'a, N> {
    /// Nothing is read yet.
    #[must_use]
    pub const fn new(source: &'a dyn Source, device: DeviceId, offset: u64, entries: u64) -> Self {
        Self::over(OnDevice(source, device), offset, entries)
    }
}

impl<B, const N: usize> TableOver<B, N> {
    /// A table in `bytes`. Nothing is read yet.
    #[must_use]
    pub const fn over(bytes: B, offset: u64, entries: u64) -> Self {
        Self { bytes, offset, entries, first: 0, held: Vec::new(), damage: Damage::none() }
    }
}

impl<B: Bytes, const N: usize> TableOver<B, N> {
    /// How many entries it has.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// The entry number `index`; `None` behind the table's end.
    pub fn get(&mut self, index: u64) -> Result<Option<[u8; N]>> {
        if index >= self.entries {
            return Ok(None);
        }
        if self.held_entry(index).is_none() {
            self.fetch(index);
        }
        let Some((skip, entry)) = self.held_entry(index) else { return Ok(None) };
        self.damage.good_until(skip, N)?;
        Ok(Some(entry))
    }

    /// The entry, and where it begins in what is held.
    fn held_entry(&self, index: u64) -> Option<(usize, [u8; N])> {
        let skip = usize::try_from(index.checked_sub(self.first)?).ok()?.checked_mul(N)?;
        Some((skip, self.held.get(skip..)?.first_chunk::<N>().copied()?))
    }

    fn fetch(&mut self, index: u64) {
        let piece = PIECE / N as u64;
        let first = index - index % piece;
        let count = self.entries.saturating_sub(first).min(piece);
        let mut held = vec![0; usize::try_from(count.saturating_mul(N as u64)).unwrap_or_default()];
        let at = self.offset.saturating_add(first.saturating_mul(N as u64));
        self.damage = Damage::read(at, &mut held, |skip, buf| self.bytes.read_at(at.saturating_add(skip as u64), buf));
        (self.first, self.held) = (first, held);
    }
}
