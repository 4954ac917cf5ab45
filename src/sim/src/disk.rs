//! A sparse device in memory.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use instar_image::{FileOffset, Run};

const PAGE: u64 = 4096;

/// Bytes that were never written take no memory, so that a test may use a device of a tebibyte.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
}

impl Disk {
    /// A device with that content.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut disk = Self::default();
        disk.write(FileOffset::ZERO, bytes);
        disk
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that take memory.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// A number that two devices have in common if they hold the same bytes, and as good as never otherwise.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.len.hash(&mut hasher);
        for page in self.pages.iter().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)) {
            page.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The whole content; for small devices.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).expect("a device of a test fits in memory")];
        self.read(FileOffset::ZERO, &mut bytes);
        bytes
    }

    /// The pieces of `len` bytes from `offset` on, cut at page boundaries: page, offset in it, offset in the
    /// range, length.
    fn pieces(offset: FileOffset, len: u64) -> impl Iterator<Item = (u64, usize, usize, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == len {
                return None;
            }
            let at = offset + done;
            let inside = at % PAGE;
            let n = (PAGE - inside).min(len - done);
            let piece = (at / PAGE, inside as usize, done as usize, n as usize);
            done += n;
            Some(piece)
        })
    }

    /// Reads; zeroes past the end.
    pub fn read(&self, offset: FileOffset, buf: &mut [u8]) {
        for (page, inside, from, n) in Self::pieces(offset, buf.len() as u64) {
            match self.pages.get(&page) {
                Some(bytes) => buf[from..from + n].copy_from_slice(&bytes[inside..inside + n]),
                None => buf[from..from + n].fill(0),
            }
        }
    }

    /// Writes; grows as needed.
    pub fn write(&mut self, offset: FileOffset, data: &[u8]) {
        self.len = self.len.max((offset + data.len() as u64).get());
        for (page, inside, from, n) in Self::pieces(offset, data.len() as u64) {
            let bytes = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE as usize]));
            bytes[inside..inside + n].copy_from_slice(&data[from..from + n]);
        }
    }

    /// Makes a range read as zeroes; grows as needed.
    pub fn zero(&mut self, offset: FileOffset, len: u64) {
        let end = offset + len;
        self.len = self.len.max(end.get());
        let touched: Vec<u64> = self.pages.range(offset / PAGE..=end / PAGE).map(|(page, _)| *page).collect();
        for page in touched {
            let start = FileOffset::new(page * PAGE).max(offset);
            let stop = FileOffset::new((page + 1) * PAGE).min(end);
            if start < stop && stop - start == PAGE {
                self.pages.remove(&page);
            } else if let (true, Some(bytes)) = (start < stop, self.pages.get_mut(&page)) {
                bytes[(start % PAGE) as usize..(start % PAGE + (stop - start)) as usize].fill(0);
            }
        }
    }

    /// Cuts off or grows.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            let cut = self.len - len;
            self.zero(FileOffset::new(len), cut);
        }
        self.len = len;
    }

    /// The run of data or hole at `offset`, at most `max` bytes.
    #[must_use]
    pub fn run(&self, offset: FileOffset, max: u64) -> Run {
        let first = offset / PAGE;
        let data = self.pages.contains_key(&first);
        let end = if data {
            (first..).find(|p| !self.pages.contains_key(p)).unwrap_or(first + 1)
        } else {
            self.pages.range(first..).next().map_or(u64::MAX / PAGE, |(p, _)| *p)
        };
        Run { len: (FileOffset::new(end * PAGE) - offset).min(max), data }
    }
}
