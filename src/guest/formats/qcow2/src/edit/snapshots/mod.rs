//! Internal snapshots: taken, gone back to, given up.
//!
//! A copied flag may be missing, and a count may be too high: neither does harm. So flags go before counts rise, and come back
//! after they have fallen; between the two, one write of the header shows the new disk or the new table of snapshots, whose
//! parts are all stable by then ([`trees`], [`table`]). Before any of it, every count was seen to have room.

mod reach;
mod table;
mod trees;

use alloc::vec::Vec;

use instar_image::table::{Span, TableCache};
use instar_image::{ENOTSUP, Error, FileOffset, Kind, NewSnapshot, Result, SnapshotEditor, Step};

use super::tables::Tables;
use super::{Qcow2Editor, State};
use crate::cluster::ClusterNumber;
use crate::header::Header;
use crate::layout::{L1_ENTRY, L1_OFFSET_MASK, field};
use crate::refcount::shift::Shift;
use crate::snapshots::Entry;
use trees::Tree;

/// Bytes of a name that are looked at where one is given up.
const NAME_MAX: usize = 255;

const ENOENT: u32 = 2;
const EINVAL: u32 = 22;
const EFBIG: u32 = 27;

fn not_supported() -> Error {
    Error::new(Kind::Io(ENOTSUP), "Operation not supported")
        .with_hint("an image whose clusters are in a data file can have no snapshots")
}

/// What is said of a snapshot whose L1 table cannot be where it is.
fn broken(entry: &Entry, why: Error) -> Error {
    let is_too_large = entry.l1_table().is_too_large(entry.l1_size.into());
    let (number, text) = if is_too_large { (EFBIG, "File too large") } else { (EINVAL, "Invalid argument") };
    Error::new(Kind::Io(number), text).after(why.message)
}

impl SnapshotEditor for Qcow2Editor<'_> {
    fn create(&self, new: &NewSnapshot<'_>) -> Result<()> {
        if self.external {
            return Err(not_supported());
        }
        self.check_room()?;
        let state = &mut *self.state.lock();
        let (found, active) = (self.look(&[])?, self.active());
        let counts = self.weigh(Tree { l1: active, whole: false }, Shift::Up)?;
        let l1_offset = self.copy_l1(state, active, active.count)?;
        let table = self.with_entry(state, &found, new, l1_offset)?;
        self.settle_new(state)?;
        let flags = self.clear_flags(active).and_then(|()| self.clear_flags_of_l1(state));
        flags.and_then(|()| self.shift(state, counts)).inspect_err(|_| self.try_flags(state))?;
        self.publish_table(self.header.snapshot_count.saturating_add(1), table)?;
        self.release_table(state, &found)
    }

    fn apply(&self, id_or_name: &[u8]) -> Result<()> {
        if !self.work.lock().is_empty() {
            return Err(Error::usage("Device has active dirty bitmaps")
                .with_hint("what they say of the disk would not be true any more"));
        }
        self.go_back(id_or_name).map_err(|error| match error.kind {
            Kind::Io(_) => error.context("Failed to load snapshot"),
            _ => error,
        })
    }

    fn delete(&self, name: &[u8]) -> Result<bool> {
        let named = |entry: &Entry| entry.shown.name == name && name.len() <= NAME_MAX;
        let found = self.look(&[&named])?;
        let Some(entry) = &found.entry else { return Ok(false) };
        if self.external {
            return Err(not_supported());
        }
        let l1 = entry.l1(&self.header)?;
        let state = &mut *self.state.lock();
        let counts = self.weigh(Tree { l1, whole: true }, Shift::Down)?;
        let table = self.without_entry(state, &found, entry)?;
        self.settle_new(state)?;
        self.publish_table(self.header.snapshot_count.saturating_sub(1), table)?;
        self.shift(state, counts).inspect_err(|_| self.try_flags(state))?;
        self.release_table(state, &found)?;
        self.set_flags(state, self.active())?;
        self.give_back(state)?;
        Ok(true)
    }
}

impl<'a> Qcow2Editor<'a> {
    /// The disk's L1 table.
    const fn active(&self) -> Span {
        Span { offset: self.header.l1_offset, count: self.header.l1_size as u64 }
    }

    /// After a failure: flags that are missing do no harm, but look like damage. What cannot be done stays undone.
    fn try_flags(&self, state: &mut State<'a>) {
        let _ = self.barrier().and_then(|()| self.set_flags(state, self.active()));
    }

    /// See [`SnapshotEditor::apply`].
    fn go_back(&self, id_or_name: &[u8]) -> Result<()> {
        if self.external {
            return Err(not_supported());
        }
        let (by_id, by_name) =
            (|entry: &Entry| entry.shown.id == id_or_name, |entry: &Entry| entry.shown.name == id_or_name);
        let found = self.look(&[&by_id, &by_name])?;
        let none = || Error::new(Kind::Io(ENOENT), "No such file or directory");
        let entry = found.entry.as_ref().ok_or_else(none)?;
        entry.l1(&self.header).map_err(|why| broken(entry, why))?;
        let (l1, then) = entry.disk(&self.header)?;
        if self.header.version < 3 && then.size != self.header.size {
            return Err(Error::new(Kind::Io(ENOTSUP), "Operation not supported")
                .after("Can't resize a v2 image which has snapshots"));
        }
        if l1.offset.saturating_add(l1.count.saturating_mul(L1_ENTRY)) > self.machine.stat(self.device)?.end() {
            return Err(Error::corrupt("the image is corrupt: the file ends before the snapshot's L1 table"));
        }
        let state = &mut *self.state.lock();
        let more = self.weigh(Tree { l1, whole: false }, Shift::Up)?;
        let less = self.weigh(Tree { l1: self.active(), whole: true }, Shift::Down)?;
        let entries = l1.count.max(then.l1_needed());
        let l1_offset = self.copy_l1(state, l1, entries)?;
        self.settle_new(state)?;
        self.clear_flags(l1)?;
        self.shift(state, more)?;
        self.publish_disk(state, Header { l1_offset, l1_size: u32::try_from(entries).unwrap_or(u32::MAX), ..then })?;
        self.shift(state, less)?;
        self.give_back(state)
    }

    /// Writes a copy of an L1 table with room for `entries`, where nobody looks yet; what is below it is shared now, so it has
    /// no copied flags. Returns where it is.
    fn copy_l1(&self, state: &mut State<'a>, l1: Span, entries: u64) -> Result<FileOffset> {
        let bits = self.header.cluster_bits;
        let clusters = entries.saturating_mul(L1_ENTRY).div_ceil(1 << bits);
        if clusters == 0 {
            return Ok(FileOffset::ZERO);
        }
        let (device, offset) = (self.device, state.counts.allocate(clusters)?.offset(bits));
        let used = l1.count.saturating_mul(L1_ENTRY);
        let behind =
            Step::Zero { device, offset: offset + used, len: (clusters << bits).saturating_sub(used), unmap: true };
        self.machine.submit(&[behind])?;
        TableCache::<8>::new(self.machine.source(), device).each(l1, |first, entries| {
            let offset = offset.saturating_add(first.saturating_mul(L1_ENTRY));
            let entries = entries.iter().map(|entry| u64::from_be_bytes(*entry) & L1_OFFSET_MASK);
            let data: Vec<u8> = entries.flat_map(u64::to_be_bytes).collect();
            self.machine.submit(&[Step::Write { device, offset, data: &data }])
        })?;
        Ok(offset)
    }

    /// Has the header tell of another disk, and then that is stable.
    fn publish_disk(&self, state: &mut State<'a>, new: Header) -> Result<()> {
        let (device, offset) = (self.device, FileOffset::new(field::SIZE as u64));
        // From the size to the L1 table's offset: they lie together, in one sector. What is between them stays.
        let mut fields = [0; field::L1_OFFSET + 8 - field::SIZE];
        self.machine.read(device, offset, &mut fields)?;
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = fields.get_mut(at - field::SIZE..).and_then(|rest| rest.get_mut(..value.len())) {
                place.copy_from_slice(value);
            }
        };
        put(field::SIZE, &new.size.to_be_bytes());
        put(field::L1_SIZE, &new.l1_size.to_be_bytes());
        put(field::L1_OFFSET, &new.l1_offset.get().to_be_bytes());
        self.machine.submit(&[Step::Write { device, offset, data: &fields }])?;
        self.barrier()?;
        let bits = self.header.cluster_bits;
        state.tables = Tables::open(self.machine, device, &new)?;
        let (_, clusters) = state.tables.place();
        let old = ClusterNumber::of(self.header.l1_offset, bits);
        state.counts.moved(old, ClusterNumber::of(new.l1_offset, bits), clusters);
        Ok(())
    }
}
