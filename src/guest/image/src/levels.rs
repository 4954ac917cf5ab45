//! Disks of clusters with two levels of tables, entries of `N` bytes in each: read, written new or
//! changed in place.
//!
//! A format says what its entries mean ([`Levels`]); what is the same for all is where clusters go and in what order
//! things get stable: bytes go to new clusters at the end, then the file has its length, then second-level entries are
//! written, then first-level ones. A run that is cut in between has clusters that nothing refers to.

mod read;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use spin::Mutex;

use crate::sealed::Placed;
use crate::table::Span;
use crate::write::Piece;
use crate::{DeviceId, Error, Extent, FileOffset, Machine, Place, Result, Spot, Step};

pub use read::{Entries, LevelReader};

/// Entries that may wait: some tens of bytes each.
const WAITING_MAX: usize = 1 << 15;
/// No entry.
const NONE: u64 = 0;

/// Tables, and what their entries mean. Lengths are in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Levels {
    /// The device.
    pub device: DeviceId,
    /// Length of the disk.
    pub size: u64,
    /// Length of a cluster.
    pub cluster: u64,
    /// The first-level table.
    pub l1: Span,
    /// A second one, whose tables say the same.
    pub copy: Option<Span>,
    /// Entries of a second-level table.
    pub l2_entries: u64,
    /// Entries are big-endian (else little-endian).
    pub big_endian: bool,
    /// A new second-level table goes before the data that it is for (else behind it).
    pub table_first: bool,
    /// Clusters and tables lie from there on, and begin at a multiple of the number.
    pub room: (FileOffset, u64),
    /// What entries count offsets in.
    pub scale: u64,
    /// Offset of the plain cluster that an entry is for.
    pub plain: fn(u64) -> Option<FileOffset>,
    /// What does not exist shows a backing file.
    pub backed: bool,
    /// The entry of a cluster of zeroes that is not in the file, where the format has one.
    pub zero: Option<u64>,
}

impl Levels {
    /// The second-level table that an entry of the first level is for.
    const fn table(&self, entry: u64) -> FileOffset {
        FileOffset::new(entry.saturating_mul(self.scale))
    }

    fn bytes<const N: usize>(&self, value: u64) -> [u8; N] {
        let (low, high) = (value.to_le_bytes(), value.to_be_bytes());
        let bytes = if self.big_endian { high.last_chunk::<N>() } else { low.first_chunk::<N>() };
        bytes.copied().unwrap_or([0; N])
    }

    fn value<const N: usize>(&self, bytes: [u8; N]) -> u64 {
        let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
    }
}

/// Places data in clusters.
pub struct LevelWriter<'a, const N: usize = 8> {
    machine: &'a dyn Machine,
    levels: Levels,
    reader: LevelReader<'a, N>,
    /// End of the file when this began: behind it, all is zeroes.
    old_end: FileOffset,
    state: Mutex<State>,
}

/// What is not settled yet.
struct State {
    /// New tables: offset by number.
    tables: BTreeMap<u64, FileOffset>,
    /// New entries by the number of their cluster.
    entries: BTreeMap<u64, u64>,
    /// Behind what is in use.
    end: FileOffset,
    /// Offset to which the file is known to reach.
    reach: FileOffset,
}

impl<'a, const N: usize> LevelWriter<'a, N> {
    /// What is new is put from `end` on.
    pub fn new(machine: &'a dyn Machine, levels: Levels, end: FileOffset) -> Result<Self> {
        let old_end = machine.stat(levels.device)?.end();
        let reader = LevelReader::new(machine.source(), levels);
        let state = Mutex::new(State { tables: BTreeMap::new(), entries: BTreeMap::new(), end, reach: old_end });
        Ok(Self { machine, levels, reader, old_end, state })
    }

    /// The tables.
    pub const fn levels(&self) -> &Levels {
        &self.levels
    }

    /// See [`crate::Writer::place`].
    pub fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let mut state = self.state.lock();
        let Levels { device, cluster, size, .. } = self.levels;
        let is_zero = matches!(piece, Piece::Zero(_));
        piece.spread((at, size), cluster, device, steps, |number| self.find(&mut state, number, is_zero))?;
        let len = piece.disk_len().unwrap_or(cluster);
        for table in self.table_of(at)..=self.table_of(at + len.saturating_sub(1)) {
            let reach = table * self.levels.l2_entries..(table + 1).saturating_mul(self.levels.l2_entries);
            if state.entries.range(reach).any(|(_, entry)| *entry != NONE) {
                self.make_table(&mut state, table)?;
            }
        }
        Ok(())
    }

    /// Places one compressed cluster, behind `head`: at a multiple of `align` bytes; `entry` makes its entry of its offset.
    pub fn place_compressed<'p>(
        &self,
        at: u64,
        (head, bytes): (Vec<u8>, &'p [u8]),
        align: u64,
        entry: impl FnOnce(FileOffset) -> u64,
        steps: &mut Vec<Placed<'p>>,
    ) -> Result<()> {
        let state = &mut *self.state.lock();
        self.make_table(state, self.table_of(at))?;
        let device = self.levels.device;
        let behind = head.len() as u64;
        let offset = self.allocate(state, behind + bytes.len() as u64, align)?;
        state.entries.insert(at / self.levels.cluster, entry(offset));
        if !head.is_empty() {
            steps.push(Placed::Owned { device, offset, data: head });
        }
        steps.push(Placed::Step(Step::Write { device, offset: offset + behind, data: bytes }));
        Ok(())
    }

    /// Number of the table for byte `at` of the disk.
    const fn table_of(&self, at: u64) -> u64 {
        at / self.levels.cluster / self.levels.l2_entries
    }

    /// Where the cluster is to be written, if it is.
    fn find(&self, state: &mut State, number: u64, is_zero: bool) -> Result<Option<FileOffset>> {
        let Levels { cluster, backed, zero, .. } = self.levels;
        let entry = self.entry(state, number)?;
        if let Some(offset) = (self.levels.plain)(entry) {
            return self.checked(state, offset).map(Some);
        }
        if is_zero {
            let wanted = if backed { zero } else { Some(NONE) };
            if let Some(wanted) = wanted {
                if entry != wanted && (backed || Some(entry) != zero) {
                    state.entries.insert(number, wanted);
                }
                return Ok(None);
            }
        }
        if self.levels.table_first {
            self.make_table(state, number / self.levels.l2_entries)?;
        }
        let offset = self.allocate(state, cluster, cluster)?;
        state.entries.insert(number, offset / self.levels.scale);
        Ok(Some(offset))
    }

    /// Room at the end, of zeroes.
    fn allocate(&self, state: &mut State, len: u64, align: u64) -> Result<FileOffset> {
        let too_large = || Error::limit("the file gets too large");
        let offset = state.end.checked_next_multiple_of(align).ok_or_else(too_large)?;
        let last = if N < 8 { FileOffset::new(self.levels.scale << (N * 8)) } else { FileOffset::END_MAX };
        state.end = offset.checked_add(len).filter(|end| *end <= last).ok_or_else(too_large)?;
        if offset < self.old_end {
            let device = self.levels.device;
            let len = len.min(self.old_end - offset);
            self.machine.submit(&[Step::Zero { device, offset, len, unmap: true }, Step::Barrier { device }])?;
        }
        Ok(offset)
    }

    /// Offset of a table; `None`: there is none.
    fn table(&self, state: &mut State, index: u64) -> Result<Option<FileOffset>> {
        if let Some(offset) = state.tables.get(&index) {
            return Ok(Some(*offset));
        }
        self.table_in(state, self.levels.l1, index)
    }

    /// The same, as that first-level table has it.
    fn table_in(&self, state: &mut State, l1: Span, index: u64) -> Result<Option<FileOffset>> {
        let entry = self.reader.l1(l1, index)?;
        match entry.ok_or_else(|| Error::corrupt("a cluster behind the end of the tables"))? {
            NONE => Ok(None),
            place => self.checked(state, self.levels.table(place)).map(Some),
        }
    }

    /// What a table says of a place is not written to if it cannot be.
    fn checked(&self, state: &State, offset: FileOffset) -> Result<FileOffset> {
        let (first, align) = self.levels.room;
        if offset >= first && offset < state.end && offset.is_multiple_of(align) {
            return Ok(offset);
        }
        Err(Error::corrupt("a table refers to a place where no cluster can be"))
    }

    /// Bytes of a table.
    const fn table_len(&self) -> u64 {
        self.levels.l2_entries.saturating_mul(N as u64)
    }

    fn make_table(&self, state: &mut State, index: u64) -> Result<()> {
        if self.table(state, index)?.is_none() {
            // The copy follows.
            let count = if self.levels.copy.is_some() { 2 } else { 1 };
            let offset = self.allocate(state, self.table_len().saturating_mul(count), self.levels.cluster)?;
            state.tables.insert(index, offset);
        }
        Ok(())
    }

    /// The entry of a cluster.
    fn entry(&self, state: &mut State, number: u64) -> Result<u64> {
        if let Some(entry) = state.entries.get(&number) {
            return Ok(*entry);
        }
        let Levels { l2_entries, .. } = self.levels;
        let index = number / l2_entries;
        if state.tables.contains_key(&index) {
            return Ok(NONE);
        }
        let Some(offset) = self.table(state, index)? else { return Ok(NONE) };
        Ok(self.reader.l2(offset, number % l2_entries)?.unwrap_or(NONE))
    }

    /// See [`crate::Image::extent`].
    pub fn extent(&self, of: &impl Entries, at: u64, max: u64) -> Result<Extent> {
        let state = self.state.lock();
        let (cluster, number, skip) = (self.levels.cluster, at / self.levels.cluster, at % self.levels.cluster);
        let left = self.levels.size.saturating_sub(at).min(max);
        match state.entries.range(number..).next() {
            Some((first, entry)) if *first == number => {
                let place = if *entry == NONE { Place::Unallocated } else { of.place(*entry)? };
                Ok(Extent { at: at - skip, len: cluster, place }.slice(at, left))
            }
            Some((next, _)) => self.reader.extent(of, at, left.min(next.saturating_mul(cluster) - at)),
            None => self.reader.extent(of, at, left),
        }
    }

    /// See [`crate::Editor::own`]: a cluster that is not compressed has a place of its own.
    pub fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        let Levels { device, cluster, plain, .. } = self.levels;
        let (mut state, skip) = (self.state.lock(), at % cluster);
        let Some(offset) = plain(self.entry(&mut state, at / cluster)?) else { return Ok(None) };
        let offset = self.checked(&state, offset)?.saturating_add(skip);
        Ok(Some(Spot { device, offset, len: max.min(cluster - skip) }))
    }

    /// Behind what is in use.
    pub fn end(&self) -> FileOffset {
        self.state.lock().end
    }

    /// See [`crate::Writer::is_full`].
    pub fn is_full(&self) -> bool {
        self.state.lock().entries.len() >= WAITING_MAX
    }

    /// See [`crate::Writer::settle`].
    pub fn settle(&self) -> Result<()> {
        let (machine, device) = (self.machine, self.levels.device);
        let mut state = self.state.lock();
        self.reach(&mut state)?;
        machine.submit(&[Step::Barrier { device }])?;
        let entries = core::mem::take(&mut state.entries);
        let tables = core::mem::take(&mut state.tables);
        // Of a table there are one or two: in which first-level table, and how far behind its new place.
        let copies = [Some((self.levels.l1, 0)), self.levels.copy.map(|l1| (l1, self.table_len()))];
        let mut runs: Vec<(FileOffset, Vec<u8>)> = Vec::new();
        for (l1, behind) in copies.into_iter().flatten() {
            for (number, entry) in &entries {
                let index = number / self.levels.l2_entries;
                let table = match tables.get(&index) {
                    Some(offset) => Some(offset.saturating_add(behind)),
                    None => self.table_in(&mut state, l1, index)?,
                };
                // An entry of nothing needs no table.
                let Some(table) = table else { continue };
                let at = table.saturating_add(number % self.levels.l2_entries * N as u64);
                join(&mut runs, at, &self.levels.bytes::<N>(*entry));
            }
        }
        self.write(&runs)?;
        let mut runs = Vec::new();
        for (l1, behind) in copies.into_iter().flatten() {
            for (index, offset) in &tables {
                let place = offset.saturating_add(behind) / self.levels.scale;
                join(&mut runs, l1.offset.saturating_add(index * N as u64), &self.levels.bytes::<N>(place));
            }
        }
        self.write(&runs)
    }

    /// The file is as long as what is used of it.
    fn reach(&self, state: &mut State) -> Result<()> {
        if state.end > state.reach {
            self.machine.submit(&[Step::SetLength { device: self.levels.device, len: state.end.get() }])?;
            state.reach = state.end;
        }
        Ok(())
    }

    fn write(&self, runs: &[(FileOffset, Vec<u8>)]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let device = self.levels.device;
        let mut steps: Vec<Step<'_>> =
            runs.iter().map(|(offset, data)| Step::Write { device, offset: *offset, data }).collect();
        steps.push(Step::Barrier { device });
        self.machine.submit(&steps)?;
        runs.iter().for_each(|(offset, data)| self.reader.wrote(*offset, data));
        Ok(())
    }
}

/// Adds bytes to runs of such: to the last one if they follow it.
fn join(runs: &mut Vec<(FileOffset, Vec<u8>)>, at: FileOffset, bytes: &[u8]) {
    match runs.last_mut() {
        Some((start, data)) if start.saturating_add(data.len() as u64) == at => data.extend_from_slice(bytes),
        _ => runs.push((at, bytes.to_vec())),
    }
}
