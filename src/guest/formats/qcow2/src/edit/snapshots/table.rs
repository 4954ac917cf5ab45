//! The snapshot table written anew: the entries that stay are copied as they are, whatever is in them.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::{Error, FileOffset, Kind, NewSnapshot, Result, Step, Zeroes};

use super::EFBIG;
use crate::cluster::ClusterNumber;
use crate::edit::{Qcow2Editor, State};
use crate::layout::{SNAPSHOT_TABLE_BYTES_MAX, SNAPSHOTS_MAX, field};
use crate::snapshots::{Entry, Walk};
use crate::window::Window;

/// Entries begin at multiples of so many bytes.
const ALIGNED: u64 = 8;

/// What was found in the table.
pub struct Found {
    /// Bytes of the table.
    pub len: u64,
    /// The first entry that was looked for, in the order of the ways to look.
    pub entry: Option<Entry>,
    /// The identifier of the next snapshot.
    pub next_id: u64,
}

/// The number that an identifier begins with, as C reads it: one below zero is a large one.
fn number(id: &[u8]) -> u64 {
    let id = id.trim_ascii_start();
    let (below_zero, digits) = match id.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, id),
    };
    let mut digits = digits.iter().take_while(|byte| byte.is_ascii_digit()).map(|digit| u64::from(digit - b'0'));
    match digits.try_fold(0u64, |n, digit| n.checked_mul(10)?.checked_add(digit)) {
        Some(number) if below_zero => number.wrapping_neg(),
        Some(number) => number,
        None => u64::MAX,
    }
}

fn too_large() -> Error {
    Error::new(Kind::Io(EFBIG), "File too large")
}

impl<'a> Qcow2Editor<'a> {
    /// Goes through the table. Of each way in `ways` the first entry is looked for; those before win.
    pub(super) fn look(&self, ways: &[&dyn Fn(&Entry) -> bool]) -> Result<Found> {
        let mut window = Window::new(self.machine.source(), self.device);
        let mut walk = Walk::new(&self.header);
        let (mut found, mut highest): (Option<(usize, Entry)>, u64) = (None, 0);
        while let Some(entry) = walk.next(&mut window)? {
            highest = highest.max(number(&entry.shown.id));
            let better = found.as_ref().map_or(ways.len(), |(way, _)| *way);
            if let Some(way) = ways.iter().take(better).position(|fits| fits(&entry)) {
                found = Some((way, entry));
            }
        }
        let entry = found.map(|(_, entry)| entry);
        Ok(Found { len: walk.len(), entry, next_id: highest.wrapping_add(1) })
    }

    fn clusters_of(&self, len: u64) -> u64 {
        len.div_ceil(self.header.cluster_size())
    }

    /// Writes a table of those parts of the old one and, behind them, `more`, where nobody looks yet; returns where it is.
    fn write_table(&self, state: &mut State<'a>, parts: [Range<u64>; 2], more: &[u8]) -> Result<FileOffset> {
        let kept: u64 = parts.iter().map(|part| part.end - part.start).sum();
        let begin = kept.next_multiple_of(ALIGNED);
        let len = if more.is_empty() { kept } else { begin + more.len() as u64 };
        if len > SNAPSHOT_TABLE_BYTES_MAX {
            return Err(too_large());
        }
        let first = state.counts.allocate(self.clusters_of(len))?;
        let offset = first.offset(self.header.cluster_bits);
        let (device, mut to_offset) = (self.device, offset);
        let mut steps = Vec::new();
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let (from_offset, len) = (self.header.snapshot_offset + part.start, part.end - part.start);
            let zeroes = Zeroes::Copied;
            steps.push(Step::Copy { from: device, from_offset, to: device, to_offset, len, zeroes });
            to_offset += len;
        }
        let mut tail = vec![0; if more.is_empty() { 0 } else { (begin - kept) as usize }];
        tail.extend_from_slice(more);
        if !tail.is_empty() {
            steps.push(Step::Write { device, offset: to_offset, data: &tail });
        }
        self.machine.submit(&steps)?;
        Ok(offset)
    }

    /// Writes the table with one more entry. Its L1 table is at that offset.
    pub(super) fn with_entry(
        &self,
        state: &mut State<'a>,
        found: &Found,
        new: &NewSnapshot<'_>,
        l1_offset: FileOffset,
    ) -> Result<FileOffset> {
        let id = format!("{}", found.next_id);
        let lengths = (u16::try_from(id.len()), u16::try_from(new.name.len()));
        let (Ok(id_len), Ok(name_len)) = lengths else { return Err(too_large()) };
        let mut entry = Vec::new();
        entry.extend_from_slice(&l1_offset.get().to_be_bytes());
        entry.extend_from_slice(&self.header.l1_size.to_be_bytes());
        entry.extend_from_slice(&id_len.to_be_bytes());
        entry.extend_from_slice(&name_len.to_be_bytes());
        entry.extend_from_slice(&new.date_sec.to_be_bytes());
        entry.extend_from_slice(&new.date_nsec.to_be_bytes());
        // The machine's clock, and its state.
        entry.extend_from_slice(&u64::to_be_bytes(0));
        entry.extend_from_slice(&u32::to_be_bytes(0));
        // Extra data: the state's size again, the disk's, and instructions executed.
        entry.extend_from_slice(&u32::to_be_bytes(24));
        entry.extend_from_slice(&u64::to_be_bytes(0));
        entry.extend_from_slice(&self.header.size.to_be_bytes());
        entry.extend_from_slice(&u64::to_be_bytes(0));
        entry.extend_from_slice(id.as_bytes());
        entry.extend_from_slice(new.name);
        self.write_table(state, [0..found.len, found.len..found.len], &entry)
    }

    /// Writes the table without that entry; 0: there is none.
    pub(super) fn without_entry(&self, state: &mut State<'a>, found: &Found, entry: &Entry) -> Result<FileOffset> {
        if self.header.snapshot_count <= 1 {
            return Ok(FileOffset::ZERO);
        }
        let behind = entry.place.end.next_multiple_of(ALIGNED).min(found.len);
        self.write_table(state, [0..entry.place.start, behind..found.len], &[])
    }

    /// Refuses one more snapshot where there may be none.
    pub(super) fn check_room(&self) -> Result<()> {
        if u64::from(self.header.snapshot_count) >= SNAPSHOTS_MAX { Err(too_large()) } else { Ok(()) }
    }

    /// Has the header tell of another table, and then that is stable.
    pub(super) fn publish_table(&self, count: u32, offset: FileOffset) -> Result<()> {
        // Number and place lie together, in one sector.
        let mut fields = count.to_be_bytes().to_vec();
        fields.extend_from_slice(&offset.get().to_be_bytes());
        let at = FileOffset::new(field::SNAPSHOT_COUNT as u64);
        self.machine.submit(&[Step::Write { device: self.device, offset: at, data: &fields }])?;
        self.barrier()
    }

    /// Gives the old table up, which nothing refers to any more.
    pub(super) fn release_table(&self, state: &mut State<'a>, found: &Found) -> Result<()> {
        let clusters = self.clusters_of(found.len);
        if clusters > 0 {
            let first = ClusterNumber::of(self.header.snapshot_offset, self.header.cluster_bits);
            state.counts.release(first, clusters);
        }
        self.settle_old(state)
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn identifiers_count_as_far_as_they_are_numbers() {
        let numbers = [&b"12"[..], b"", b"7a", b"a7", b"99999999999999999999", b" +5", b"-1"].map(number);
        assert_eq!(numbers, [12, 0, 7, 0, u64::MAX, 5, u64::MAX]);
    }
}
