//! The snapshot table.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::image::SnapshotSelector;
use instar_image::reader::Reader;
use instar_image::table::Span;
use instar_image::{Error, FileOffset, Kind, Result, Snapshot};

use crate::extensions::text;
use crate::header::{Header, Table, l1_table};
use crate::layout::{
    FILE_OFFSET_MAX, SNAPSHOT_EXTRA_MAX, SNAPSHOT_HEADER, SNAPSHOT_NAMES_MAX, SNAPSHOT_TABLE_BYTES_MAX,
};

use crate::window::Window;

/// One snapshot: what is shown of it, and its own L1 table (not checked before it is used).
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is shown.
    pub shown: Snapshot,
    /// Where its L1 table is.
    pub l1_offset: FileOffset,
    /// Entries of its L1 table.
    pub l1_size: u32,
    /// Virtual size in bytes when it was taken; old images do not tell.
    pub disk_size: Option<u64>,
    /// Bytes of extra data.
    pub extra_len: u32,
    /// Which bytes of the table it is, without what fills it up.
    pub place: Range<u64>,
    /// Where the entry is.
    pub at: FileOffset,
    /// Bytes of identifier and name.
    pub names_len: usize,
}

/// The table, one entry after the other.
pub struct Walk {
    start: FileOffset,
    count: u32,
    index: u32,
    at: FileOffset,
    /// Extra data may be as much as they like.
    lenient: bool,
}

impl Walk {
    /// At the first entry.
    pub const fn new(header: &Header) -> Self {
        let (start, count) = (header.snapshot_offset, header.snapshot_count);
        Self { start, count, index: 0, at: start, lenient: false }
    }

    /// The same; entries with too many extra data are no error.
    pub const fn lenient(header: &Header) -> Self {
        Self { lenient: true, ..Self::new(header) }
    }

    /// The next entry.
    pub fn next(&mut self, window: &mut Window<'_>) -> Result<Option<Entry>> {
        if self.index >= self.count {
            return Ok(None);
        }
        self.at = self.at.checked_next_multiple_of(8).unwrap_or(FileOffset::MAX);
        if self.at.saturating_add(SNAPSHOT_HEADER as u64) > FILE_OFFSET_MAX {
            const EIO: u32 = 5;
            let error = Error::new(Kind::Io(EIO), "Input/output error");
            return Err(error.context("Failed to read snapshot table"));
        }
        let (mut entry, len) = one(window, self.at, self.index, self.lenient)?;
        let begin = self.len();
        self.at = self.at.saturating_add(len);
        entry.place = begin..self.len();
        if self.is_too_long() {
            let more = self.count.saturating_sub(self.index);
            return Err(Error::limit(format!(
                "Snapshot table is too big\nYou can force-remove all {more} overhanging snapshots with qemu-img \
                 check -r all"
            )));
        }
        self.index = self.index.saturating_add(1);
        Ok(Some(entry))
    }

    /// How many entries were there so far.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// It is longer than a table may be.
    pub const fn is_too_long(&self) -> bool {
        self.len() > SNAPSHOT_TABLE_BYTES_MAX
    }

    /// Bytes of the table so far.
    pub const fn len(&self) -> u64 {
        self.at.saturating_since(self.start)
    }
}

/// Reads all of the table.
pub fn read(window: &mut Window<'_>, header: &Header) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut names = 0usize;
    let mut walk = Walk::new(header);
    while let Some(entry) = walk.next(window)? {
        names = names.saturating_add(entry.shown.id.len()).saturating_add(entry.shown.name.len());
        // What is too much is counted all the same: a broken table is to be called broken.
        if names <= SNAPSHOT_NAMES_MAX {
            entries.push(entry);
        }
    }
    if names > SNAPSHOT_NAMES_MAX {
        return Err(Error::limit(format!("the names of the snapshots take {names} bytes, more than instar keeps")));
    }
    Ok(entries)
}

/// The entry at `at`, and its length in bytes.
fn one(window: &mut Window<'_>, at: FileOffset, index: u32, lenient: bool) -> Result<(Entry, u64)> {
    let head = window.bytes(at, SNAPSHOT_HEADER)?.first_chunk::<SNAPSHOT_HEADER>().copied();
    let head = head.ok_or_else(|| Error::malformed("structure is cut short"))?;
    let r = Reader::new(&head);
    let (id_len, name_len) = (usize::from(r.be16(12)?), usize::from(r.be16(14)?));
    let extra_len = r.be32(36)?;
    if extra_len > SNAPSHOT_EXTRA_MAX && !lenient {
        return Err(Error::malformed(format!(
            "Too much extra metadata in snapshot table entry {index}\nYou can force-remove this extra metadata with \
             qemu-img check -r all"
        )));
    }
    // What is behind the most that there may be is looked at by nobody.
    let (extra_kept, names_len) = (extra_len.min(SNAPSHOT_EXTRA_MAX) as usize, id_len.saturating_add(name_len));
    let extra_at = at.saturating_add(SNAPSHOT_HEADER as u64);
    let extra = window.bytes(extra_at, extra_kept)?.to_vec();
    let names = Reader::new(window.bytes(extra_at.saturating_add(u64::from(extra_len)), names_len)?);
    // The extra data grew field by field: a field is there if it is there wholly.
    let extra = Reader::new(&extra);
    let small_state = u64::from(r.be32(32)?);
    let shown = Snapshot {
        id: text(names.bytes(0, id_len)?),
        name: text(names.bytes(id_len, name_len)?),
        vm_state_size: extra.be64(0).unwrap_or(small_state),
        date_sec: r.be32(16)?,
        date_nsec: r.be32(20)?,
        vm_clock_nsec: r.be64(24)?,
        icount: extra.be64(16).ok().filter(|n| *n != u64::MAX),
    };
    let (l1_offset, l1_size, disk_size) = (FileOffset::new(r.be64(0)?), r.be32(8)?, extra.be64(8).ok());
    let entry = Entry { shown, l1_offset, l1_size, disk_size, extra_len, place: 0..0, at, names_len };
    let rest_len = u64::from(extra_len).saturating_add(names_len as u64);
    Ok((entry, (SNAPSHOT_HEADER as u64).saturating_add(rest_len)))
}

/// The L1 table of the snapshot that `wanted` asks for, and the header as it was then.
pub fn select(entries: &[Entry], wanted: &SnapshotSelector, header: &Header) -> Result<(Span, Header)> {
    let by_id = |id: &[u8]| entries.iter().find(|e| e.shown.id == id);
    let by_name = |name: &[u8]| entries.iter().find(|e| e.shown.name == name);
    let found = match wanted {
        SnapshotSelector::IdOrName(text) => by_id(text).or_else(|| by_name(text)),
        SnapshotSelector::Exact { id: Some(id), name: Some(name) } => {
            entries.iter().find(|e| e.shown.id == *id && e.shown.name == *name)
        }
        SnapshotSelector::Exact { id: Some(id), name: None } => by_id(id),
        SnapshotSelector::Exact { id: None, name: Some(name) } => by_name(name),
        SnapshotSelector::Exact { id: None, name: None } => None,
    };
    found.ok_or_else(|| Error::usage(format!("{FAILED}: Can't find snapshot")))?.disk(header)
}

/// What errors begin with.
const FAILED: &str = "Failed to load snapshot";

impl Entry {
    /// What its L1 table is checked against.
    pub const fn l1_table(&self) -> Table {
        l1_table("Snapshot L1 table")
    }

    /// Its L1 table, if one can be there.
    pub fn l1(&self, header: &Header) -> Result<Span> {
        let count = u64::from(self.l1_size);
        let end = self.l1_table().check(self.l1_offset, count, header.cluster_size())?;
        if end > FILE_OFFSET_MAX {
            return Err(Error::malformed("Failed to read l1 table for snapshot"));
        }
        Ok(Span { offset: self.l1_offset, count })
    }

    /// The same, and the header as it was then.
    pub fn disk(&self, header: &Header) -> Result<(Span, Header)> {
        let failed = |e: Error| e.context(FAILED);
        let l1 = self.l1(header).map_err(failed)?;
        let Some(size) = self.disk_size else { return Ok((l1, header.clone())) };
        let header = Header { size, ..header.clone() };
        header.check_size().map_err(failed)?;
        // Else a part of the disk would be empty because the table ends.
        if l1.count < header.l1_needed() {
            return Err(failed(Error::malformed("L1 table is too small")));
        }
        Ok((l1, header))
    }
}
