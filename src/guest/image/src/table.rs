//! Reading tables of fixed-width entries, in pieces: any of an image's tables through one window.

use alloc::format;
use alloc::vec::Vec;

use crate::damage::Damage;
use crate::limits::LACKING_MAX;
use crate::{DeviceId, Error, FileOffset, Result, Source};

/// Bytes read at once.
const PIECE: usize = 65536;

/// Where a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub offset: FileOffset,
    /// Entries.
    pub count: u64,
}

impl Span {
    /// Fails where the file does not have most of a large table, whose entries are `entry` bytes long.
    pub fn check_held(&self, source: &dyn Source, device: DeviceId, entry: u64) -> Result<()> {
        let held = source.stat(device)?.end().saturating_since(self.offset) / entry.max(1);
        if self.count.saturating_sub(held) > LACKING_MAX {
            return Err(Error::malformed(format!("the file ends before most of a table of {} entries", self.count)));
        }
        Ok(())
    }

    /// The same where a table is never zeroes: holes of the file do not count as held.
    pub fn check_written(&self, source: &dyn Source, device: DeviceId, entry: u64) -> Result<()> {
        self.check_held(source, device, entry)?;
        let (mut at, end) = (self.offset, self.offset.saturating_add(self.count.saturating_mul(entry)));
        let mut lacking = 0;
        while self.count > LACKING_MAX && at < end {
            let mut runs = Vec::new();
            let next = source.runs(device, at, end - at, &mut runs)?;
            lacking += runs.iter().filter(|run| !run.data).map(|run| run.len).sum::<u64>();
            if lacking / entry.max(1) > LACKING_MAX {
                return Err(Error::malformed(format!("most of a table of {} entries was never written", self.count)));
            }
            if next <= at {
                break;
            }
            at = next;
        }
        Ok(())
    }
}

/// What tables are read from.
pub trait Bytes {
    /// Reads from `offset` on; zeroes past the end.
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> Result<()>;
}

/// A device as it is.
pub struct OnDevice<'a>(&'a dyn Source, DeviceId);

impl Bytes for OnDevice<'_> {
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        self.0.read(self.1, offset, buf)
    }
}

/// The same of tables on a device.
pub type TableCache<'a, const N: usize> = TableCacheOver<OnDevice<'a>, N>;

/// Reads tables whose entries are `N` bytes long, and keeps the last piece: a walk from front to back crosses to the host
/// once for each piece, and memory does not grow with the image. What lies past the end is zeroes; of what cannot be read,
/// only the entries that lie there are lost.
pub struct TableCacheOver<B, const N: usize> {
    from: B,
    /// Where what is held begins.
    at: FileOffset,
    bytes: Vec<u8>,
    damage: Damage,
}

impl<'a, const N: usize> TableCache<'a, N> {
    /// Nothing is read yet.
    #[must_use]
    pub const fn new(source: &'a dyn Source, device: DeviceId) -> Self {
        Self::over(OnDevice(source, device))
    }
}

impl<B, const N: usize> TableCacheOver<B, N> {
    /// Tables in `from`. Nothing is read yet.
    #[must_use]
    pub const fn over(from: B) -> Self {
        Self { from, at: FileOffset::ZERO, bytes: Vec::new(), damage: Damage::none() }
    }
}

impl<B: Bytes, const N: usize> TableCacheOver<B, N> {
    /// The entries of `table` from number `first` on, as many as one piece holds and can be read: none only behind the
    /// table's end.
    pub fn from(&mut self, table: Span, first: u64) -> Result<&[[u8; N]]> {
        let most = (PIECE / N.max(1)) as u64;
        let start = first - first % most;
        let count = table.count.saturating_sub(start).min(most) as usize;
        let at = table.offset.saturating_add(start.saturating_mul(N as u64));
        if at.saturating_add((count * N) as u64) > FileOffset::END_MAX {
            return Err(Error::malformed("Input/output error"));
        }
        if self.at != at || self.bytes.len() != count * N {
            self.bytes.clear();
            self.bytes.resize(count * N, 0);
            let from = &self.from;
            let read = |skip, buf: &mut [u8]| from.read_at(at.saturating_add(skip as u64), buf);
            self.damage = Damage::read(at.get(), &mut self.bytes, read);
            self.at = at;
        }
        let skip = (first - start) as usize;
        let (entries, _) = self.bytes.as_chunks::<N>();
        if skip >= entries.len() {
            return Ok(&[]);
        }
        let until = self.damage.good_until(skip * N, N)? / N.max(1);
        Ok(entries.get(skip..until.min(entries.len())).unwrap_or_default())
    }

    /// Entry `index` of `table`; `None` behind its end.
    pub fn entry(&mut self, table: Span, index: u64) -> Result<Option<[u8; N]>> {
        Ok(self.from(table, index)?.first().copied())
    }

    /// Calls `each` for all entries of `table`, as many at a time as one piece holds: the number of the first, and what they
    /// are.
    pub fn each(&mut self, table: Span, mut each: impl FnMut(u64, &[[u8; N]]) -> Result<()>) -> Result<()> {
        let mut index = 0;
        while index < table.count {
            let entries = self.from(table, index)?;
            each(index, entries)?;
            index = index.saturating_add(entries.len().max(1) as u64);
        }
        Ok(())
    }

    /// These bytes were written at `at`: what is held of them is they.
    pub fn wrote(&mut self, at: FileOffset, data: &[u8]) {
        let (held, end) = (self.at.saturating_add(self.bytes.len() as u64), at.saturating_add(data.len() as u64));
        let (start, end) = (at.max(self.at), end.min(held));
        if start < end {
            let to = (start - self.at) as usize..(end - self.at) as usize;
            let from = (start - at) as usize..(end - at) as usize;
            if let (Some(to), Some(from)) = (self.bytes.get_mut(to), data.get(from)) {
                to.copy_from_slice(from);
            }
        }
    }
}
