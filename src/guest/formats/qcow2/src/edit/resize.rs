//! Changing the size of the disk.
//!
//! Growing: what the larger disk needs (a longer L1 table, clusters that are zeroes where a backing file would show,
//! preallocated clusters) is made first, where nobody looks; then one write of the header shows it; then the old L1 table is
//! given up. Shrinking: the header first, then what lies behind the new end is given up. Either way the disk is at each
//! moment the old or the new one.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::write::Piece;
use instar_image::{Changes, Error, FileOffset, Kind, NewSize, Preallocation, Resizing, Result, Step};

use super::{Qcow2Editor, State};
use crate::Qcow2Image;
use crate::bitmaps;
use crate::cluster::ClusterNumber;
use crate::layout::{
    AUTOCLEAR_DATA_FILE_RAW, L1_BYTES_MAX, L1_ENTRY, OFLAG_COMPRESSED, OFLAG_COPIED, OFLAG_ZERO, SUBCLUSTERS, field,
};

/// The disk is counted in sectors of so many bytes.
const SECTOR: u64 = 512;

impl Resizing for Qcow2Image<'_> {
    fn resize(&self, to: &NewSize) -> Result<()> {
        if !to.size.is_multiple_of(SECTOR) {
            return Err(Error::usage("The new size must be a multiple of 512"));
        }
        let editor = Qcow2Editor::open(self, &Changes::default())?;
        if editor.header.version < 3 && editor.header.snapshot_count != 0 {
            return Err(Error::unsupported("Can't resize a v2 image which has snapshots"));
        }
        let old = editor.header.size;
        bitmaps::check_resize(&self.bitmaps)?;
        if to.size == old {
            return Ok(());
        }
        {
            let state = &mut *editor.state.lock();
            state.bitmaps.begin()?;
        }
        if to.size > old {
            editor.grow(to).map_err(|error| editor.refused(error))?;
        } else {
            editor.shrink(to.size)?;
        }
        let state = &mut *editor.state.lock();
        state.bitmaps.resize(to.size, &mut state.counts)?;
        state.bitmaps.write_back(&mut state.counts)?;
        editor.settle_new(state)?;
        state.bitmaps.end()?;
        editor.settle_old(state)?;
        editor.give_back(state)
    }
}

impl<'a> Qcow2Editor<'a> {
    /// What cannot be has changed nothing that the disk shows: the bitmaps hold as before. After a failure they do not.
    fn refused(&self, error: Error) -> Error {
        let state = &mut *self.state.lock();
        if matches!(error.kind, Kind::Io(_)) { error } else { state.bitmaps.end().err().unwrap_or(error) }
    }

    fn grow(&self, to: &NewSize) -> Result<()> {
        let (old, size) = (self.header.size, to.size);
        let state = &mut *self.state.lock();
        let entries = size.div_ceil(self.reach());
        if entries.saturating_mul(L1_ENTRY) > L1_BYTES_MAX {
            return Err(Error::limit("Failed to grow the L1 table: File too large"));
        }
        let mut head = vec![0; 24];
        self.machine.read(self.device, FileOffset::new(field::SIZE as u64), &mut head)?;
        if entries > state.tables.len() as u64 {
            let (offset, (first, count)) = state.tables.grow(entries as usize, &mut state.counts)?;
            // The fields from the size to the L1 table's offset lie together: one write shows all of it.
            let at = |field: usize| field - field::SIZE;
            put(&mut head, at(field::L1_SIZE), &(entries as u32).to_be_bytes());
            put(&mut head, at(field::L1_OFFSET), &offset.get().to_be_bytes());
            state.counts.release(first, count);
            let clusters = (entries * L1_ENTRY).div_ceil(self.header.cluster_size());
            state.counts.moved(first, ClusterNumber::of(offset, self.header.cluster_bits), clusters);
        }
        put(&mut head, 0, &size.to_be_bytes());
        let covered = to.backing_len.unwrap_or(0).min(size);
        self.clear_tail(state, size)?;
        if covered > old {
            self.hide_backing(state, covered, to)?;
        }
        self.preallocate(state, old, size, to)?;
        self.settle_new(state)?;
        if self.external {
            self.machine.submit(&[Step::SetLength { device: self.geometry.data, len: size }])?;
            self.barrier()?;
        }
        let offset = FileOffset::new(field::SIZE as u64);
        self.machine.submit(&[Step::Write { device: self.device, offset, data: &head }])?;
        self.barrier()?;
        self.settle_old(state)
    }

    /// Makes the disk zeroes from its old end to `end`, where its backing file would show.
    fn hide_backing(&self, state: &mut State<'a>, end: u64, to: &NewSize) -> Result<()> {
        let (old, size) = (self.header.size, to.size);
        if self.header.version < 3 && !matches!(to.preallocation, Preallocation::Falloc | Preallocation::Full) {
            // Version 2 has no zero clusters; only preallocated ones hide the backing file as well.
            return Err(Error::unsupported("Failed to zero out new clusters: Operation not supported"));
        }
        // The unit that the end is in is the image's own (see `NewSize::backing_len`).
        let unit = self.geometry.unit_size();
        let from = old.next_multiple_of(unit);
        let inside = from % self.geometry.cluster_size();
        if inside != 0 && from < end && self.slot(state, old)?.entry & OFLAG_COMPRESSED != 0 {
            // A part of such a cluster cannot become zeroes.
            return Err(Error::unsupported("Failed to zero out new clusters: Operation not supported"));
        }
        if from < end && self.header.version >= 3 {
            let len = end.next_multiple_of(unit).min(size) - from;
            let mut steps = Vec::new();
            self.put_to(state, from, Piece::Zero(len), size, &mut steps)?;
            self.submit_placed(steps)?;
        }
        Ok(())
    }

    /// Gives every new cluster a place, as `--preallocation` says.
    fn preallocate(&self, state: &mut State<'a>, old: u64, size: u64, to: &NewSize) -> Result<()> {
        let g = &self.geometry;
        // What another program writes into a raw data file is seen only where an entry leads there.
        let is_raw = self.external && self.header.autoclear & AUTOCLEAR_DATA_FILE_RAW != 0;
        let mode = match to.preallocation {
            Preallocation::Off if is_raw => Preallocation::Metadata,
            mode => mode,
        };
        if mode == Preallocation::Off {
            return Ok(());
        }
        let width = 1u64 << g.entry_bits;
        let backed = self.header.backing.0 != FileOffset::ZERO;
        // Over a backing file the new clusters are zeroes by their entries.
        let (flag, bitmap) = match (backed, g.entry_bits == 4) {
            (true, true) => (0, 0xffff_ffff << SUBCLUSTERS),
            (true, false) if self.header.version >= 3 => (OFLAG_ZERO, 0),
            _ => (0, 0),
        };
        let (mut cluster, end) = (old.div_ceil(g.cluster_size()), size.div_ceil(g.cluster_size()));
        while cluster < end {
            let index = g.index_in_table(cluster);
            let most = ((1u64 << g.table_bits()) - index).min(end - cluster);
            let (host, count) = match g.external {
                // Each there where it is in the disk.
                true => (ClusterNumber::new(cluster), most),
                false => state.counts.allocate_some(most)?,
            };
            let mut bytes = Vec::with_capacity((count * width) as usize);
            for i in 0..count {
                let place = (host + i).offset(g.cluster_bits);
                bytes.extend_from_slice(&(place.get() | OFLAG_COPIED | flag).to_be_bytes());
                if width == 16 {
                    bytes.extend_from_slice(&u64::to_be_bytes(bitmap));
                }
            }
            let table = usize::try_from(cluster >> g.table_bits()).unwrap_or(usize::MAX);
            state.tables.change(table, (index * width) as usize, &bytes, &mut state.counts)?;
            let (device, offset, len) = (g.data, host.offset(g.cluster_bits), count << g.cluster_bits);
            // What was there before must not show.
            let zero = Step::Zero { device, offset, len, unmap: true };
            let allocate = Step::Allocate { device, offset, len, full: mode == Preallocation::Full };
            match mode {
                Preallocation::Metadata => self.machine.submit(&[zero])?,
                _ => {
                    self.machine.submit(&[zero])?;
                    self.machine.submit(&[allocate])?;
                }
            }
            cluster += count;
            if state.counts.waiting().saturating_add(state.tables.waiting()) > super::WAITING_MAX {
                self.settle_new(state)?;
            }
        }
        Ok(())
    }

    fn shrink(&self, size: u64) -> Result<()> {
        let state = &mut *self.state.lock();
        self.clear_stale()?;
        let (device, offset) = (self.device, FileOffset::new(field::SIZE as u64));
        self.machine.submit(&[Step::Write { device, offset, data: &size.to_be_bytes() }])?;
        self.barrier()?;
        let g = &self.geometry;
        let first = size.div_ceil(g.cluster_size());
        let whole = first.div_ceil(1 << g.table_bits());
        // The clusters behind the end in the table that the end is in.
        let index = g.index_in_table(first);
        if index != 0 {
            let table = (first >> g.table_bits()) as usize;
            if state.tables.offset(table)? != FileOffset::ZERO {
                self.give_up_rest(state, table, (index << g.entry_bits) as usize)?;
            }
        }
        for table in usize::try_from(whole).unwrap_or(usize::MAX)..state.tables.len() {
            self.give_up_table(state, table)?;
            state.tables.remove(table);
        }
        self.settle_new(state)?;
        self.settle_old(state)?;
        if self.external {
            self.machine.submit(&[Step::SetLength { device: g.data, len: size }])?;
        }
        Ok(())
    }

    /// Gives up what the entries from byte `from` of a table on refer to.
    fn give_up_rest(&self, state: &mut State<'a>, table: usize, from: usize) -> Result<()> {
        let g = &self.geometry;
        let bytes = state.tables.read(table)?.get(from..).unwrap_or_default().to_vec();
        let entries = Reader::new(&bytes);
        for at in (0..bytes.len()).step_by(1 << g.entry_bits) {
            self.give_up_entry(state, entries.be64(at)?);
        }
        state.tables.change(table, from, &vec![0; bytes.len()], &mut state.counts)
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}
