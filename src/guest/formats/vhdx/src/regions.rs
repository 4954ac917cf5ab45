//! The region table: where the block allocation table and the metadata are, and what may not be overlapped.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::table::Bytes;
use instar_image::{DeviceId, Error, FileOffset, Machine, OpenContext, Result, Step};

use crate::error::{invalid, unreadable, unsupported};
use crate::header::Header;
use crate::layout::{ENTRIES_MAX, REGION_TABLES, TABLE, checksum, put, region};
use crate::view::View;

const CHECKSUM: usize = 4;
const HEADER: usize = 16;
const ENTRY: usize = 32;

/// A range of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub at: FileOffset,
    /// Bytes.
    pub len: u64,
}

impl Range {
    const fn end(self) -> FileOffset {
        self.at.saturating_add(self.len)
    }

    /// Whether the `len` bytes at `at` are part of it.
    pub fn holds(self, at: FileOffset, len: u64) -> bool {
        at >= self.at && at.checked_add(len).is_some_and(|end| end <= self.end())
    }
}

/// All regions.
#[derive(Clone, Debug)]
pub struct Regions {
    pub bat: Range,
    pub metadata: Range,
    /// Every range with a purpose, log included, the last one that was found first.
    taken: Vec<Range>,
}

impl Regions {
    /// Reads the table; the second one counts under our own name only, where the first is damaged.
    pub fn read(cx: &OpenContext<'_, '_>, view: &View<'_>, header: &Header) -> Result<Self> {
        let mut bytes = vec![0; TABLE];
        let tables = if cx.source.is_stock() { 1 } else { REGION_TABLES.len() };
        let mut sound = false;
        for offset in REGION_TABLES.iter().take(tables) {
            view.read_at(*offset, &mut bytes)?;
            sound = bytes.starts_with(b"regi")
                && Reader::new(&bytes).le32(CHECKSUM)? == checksum(&bytes, CHECKSUM)
                && Reader::new(&bytes).le32(8)? <= ENTRIES_MAX.into();
            if sound {
                break;
            }
        }
        if !sound {
            return Err(invalid(cx));
        }
        Self::parse(cx, &bytes, header)
    }

    fn parse(cx: &OpenContext<'_, '_>, bytes: &[u8], header: &Header) -> Result<Self> {
        let mut taken = vec![Range { at: header.log_at, len: header.log_len }];
        let (mut bat, mut metadata) = (None, None);
        let count = Reader::new(bytes).le32(8)? as usize;
        for number in 0..count {
            let r = Reader::new(bytes.get(HEADER + number * ENTRY..).unwrap_or_default());
            let range = Range { at: FileOffset::new(r.le64(16)?), len: r.le32(24)?.into() };
            if let Some(text) = overlap(&taken, range) {
                return Err(invalid(cx).after(text));
            }
            taken.insert(0, range);
            let place = match r.array::<16>(0)? {
                region::BAT => &mut bat,
                region::METADATA => &mut metadata,
                _ if r.le32(28)? & 1 != 0 => return Err(unsupported(cx)),
                _ => continue,
            };
            if place.replace(range).is_some() {
                return Err(invalid(cx));
            }
        }
        let (Some(bat), Some(metadata)) = (bat, metadata) else { return Err(invalid(cx)) };
        // What a file cannot have at all.
        if [bat, metadata].iter().any(|r| r.end() > FileOffset::END_MAX) {
            return Err(unreadable(cx));
        }
        Ok(Self { bat, metadata, taken })
    }

    /// Behind all of them.
    pub fn end(&self) -> FileOffset {
        self.taken.iter().map(|range| range.end()).max().unwrap_or_default()
    }

    /// In the stock tool's words, what the range would overlap.
    pub fn overlap(&self, range: Range) -> Option<alloc::string::String> {
        overlap(&self.taken, range)
    }
}

/// The block allocation table is somewhere else from now on. The first table counts: what changes of it lies in one sector,
/// and so changes at once.
pub fn move_bat(machine: &dyn Machine, device: DeviceId, to: Range) -> Result<()> {
    const SECTOR: usize = 512;
    let [first, second] = REGION_TABLES;
    let mut bytes = vec![0; TABLE];
    machine.read(device, first, &mut bytes)?;
    if Reader::new(&bytes).le32(CHECKSUM)? != checksum(&bytes, CHECKSUM) {
        return Err(Error::corrupt("the first region table is damaged"));
    }
    let entry = (HEADER..=SECTOR - ENTRY).step_by(ENTRY).find(|at| bytes.get(*at..*at + 16) == Some(&region::BAT));
    let entry = entry.ok_or_else(|| Error::unsupported("there are other regions before that of the blocks' table"))?;
    let len = u32::try_from(to.len).map_err(|_| Error::limit("the blocks' table gets too large"))?;
    put(&mut bytes, entry + 16, &to.at.get().to_le_bytes());
    put(&mut bytes, entry + 24, &len.to_le_bytes());
    let sum = checksum(&bytes, CHECKSUM);
    put(&mut bytes, CHECKSUM, &sum.to_le_bytes());
    let barrier = Step::Barrier { device };
    machine.submit(&[
        barrier,
        Step::Write { device, offset: second, data: &bytes },
        barrier,
        Step::Write { device, offset: first, data: bytes.get(..SECTOR).unwrap_or_default() },
        barrier,
    ])
}

fn overlap(taken: &[Range], range: Range) -> Option<alloc::string::String> {
    let other = taken.iter().find(|other| range.at < other.end() && other.at < range.end())?;
    let (start, end) = (range.at, range.end());
    Some(format!("VHDX region {start}-{end} overlaps with region {}-{}", other.at, other.end()))
}
