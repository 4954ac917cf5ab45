//! The writer into an existing image (`convert -n`): clusters that are there are written where they are, others are
//! appended to the file.
//!
//! Refused are images whose clusters may be shared or are counted elsewhere: with snapshots, bitmaps, compressed
//! clusters, a data file, encryption, or marked dirty or corrupt.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::write::{Piece, Placed, Target, Writer};
use instar_image::{CreateContext, DeviceId, Error, Machine, Result, Step};
use spin::Mutex;

use super::l1_entry;
use super::refcounts::Refcounts;
use crate::header::{Encryption, Header};
use crate::layout::{
    AUTOCLEAR_BITMAPS, HEADER_LENGTH_V2, L1_ENTRY, L1_OFFSET_MASK, L2_OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED,
    OFLAG_ZERO, REFCOUNT_TABLE_BYTES_MAX, SUBCLUSTERS, field, incompatible,
};
use crate::window::Window;

/// See the module.
pub struct Existing<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    header: Header,
    /// Byte offset of the refcount table.
    refcount_table: u64,
    /// Bytes of the disk that are written: what lies behind stays.
    written: u64,
    /// Nothing was allocated in it and nothing is below it.
    empty: bool,
    state: Mutex<State>,
}

struct State {
    refcounts: Refcounts,
    l1: Vec<u64>,
    l1_changed: bool,
    l2: Vec<u8>,
    /// The table in `l2`: its number, and its place if it has one.
    open: Option<(usize, Option<u64>)>,
    l2_changed: bool,
}

fn refuse(why: &str) -> Error {
    Error::unsupported("writing into this image is not supported").with_hint(why)
}

impl<'a> Existing<'a> {
    /// Reads the tables.
    pub fn open(cx: &CreateContext<'a, '_>) -> Result<Self> {
        let (machine, device) = (cx.machine, cx.device);
        let mut window = Window::new(machine.source(), device);
        let header = Header::parse(&mut window, cx.version)?;
        if header.size < cx.size {
            return Err(Error::usage("output file is smaller than input file"));
        }
        let rules = [
            (header.snapshot_count != 0, "it has internal snapshots"),
            (header.autoclear & AUTOCLEAR_BITMAPS != 0, "it has persistent bitmaps"),
            (header.encryption != Encryption::None, "it is encrypted"),
            (header.has(incompatible::DATA_FILE), "its data is in another file"),
            (header.has(incompatible::DIRTY) || header.has(incompatible::CORRUPT), "it needs a repair first"),
        ];
        if let Some((_, why)) = rules.iter().find(|(is, _)| *is) {
            return Err(refuse(why));
        }
        let numbers = |offset: u64, count: u64| -> Result<Vec<u64>> {
            let mut bytes = vec![0; (count * L1_ENTRY) as usize];
            machine.read(device, offset, &mut bytes)?;
            Ok(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_be_bytes(*b)).collect())
        };
        let l1 = numbers(header.l1_offset, u64::from(header.l1_size))?;
        let fixed = Reader::new(window.bytes(0, HEADER_LENGTH_V2 as usize)?);
        let refcount_table = fixed.be64(field::REFCOUNT_OFFSET)?;
        let table_bytes = u64::from(fixed.be32(field::REFCOUNT_CLUSTERS)?) << header.cluster_bits;
        if table_bytes > REFCOUNT_TABLE_BYTES_MAX {
            return Err(Error::limit("Reference count table too large"));
        }
        let table = numbers(refcount_table, table_bytes / 8)?;
        let empty = l1.iter().all(|entry| entry & L1_OFFSET_MASK == 0) && header.backing.0 == 0;
        let end = machine.stat(device)?.len;
        let refcounts = Refcounts::resume(machine, device, &header, end, table)?;
        let state = State { refcounts, l1, l1_changed: false, l2: Vec::new(), open: None, l2_changed: false };
        Ok(Self { machine, device, header, refcount_table, written: cx.size, empty, state: Mutex::new(state) })
    }

    fn entry_len(&self) -> usize {
        if self.header.has(incompatible::EXTENDED_L2) { 16 } else { 8 }
    }

    fn reach(&self) -> u64 {
        (self.header.cluster_size() / self.entry_len() as u64) << self.header.cluster_bits
    }

    fn close(&self, state: &mut State, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        let (Some((index, place)), true) = (state.open.take(), state.l2_changed) else { return Ok(()) };
        state.l2_changed = false;
        let offset = match place {
            Some(offset) => offset,
            None => {
                let offset = state.refcounts.allocate(1)?;
                *state.l1.get_mut(index).ok_or_else(|| refuse("its L1 table is too short"))? = l1_entry(offset);
                state.l1_changed = true;
                offset
            }
        };
        steps.push(Placed::Owned { device: self.device, offset, data: core::mem::take(&mut state.l2) });
        Ok(())
    }

    /// Brings the L2 table for byte `at` of the disk in; returns where the cluster's entry is in it.
    fn find(&self, state: &mut State, at: u64, steps: &mut Vec<Placed<'_>>) -> Result<usize> {
        let index = usize::try_from(at / self.reach()).unwrap_or(usize::MAX);
        if state.open.is_none_or(|(open, _)| open != index) {
            self.close(state, steps)?;
            let entry = *state.l1.get(index).ok_or_else(|| refuse("its L1 table is too short"))?;
            let offset = entry & L1_OFFSET_MASK;
            if offset != 0 && entry & OFLAG_COPIED == 0 {
                return Err(refuse("one of its tables is shared"));
            }
            state.l2 = vec![0; 1 << self.header.cluster_bits];
            if offset != 0 {
                self.machine.read(self.device, offset, &mut state.l2)?;
            }
            state.open = Some((index, (offset != 0).then_some(offset)));
        }
        Ok(((at % self.reach()) >> self.header.cluster_bits) as usize * self.entry_len())
    }

    /// The place of the cluster at byte `at`, if it has one.
    fn lookup(&self, state: &State, slot: usize) -> Result<Option<u64>> {
        let table = Reader::new(&state.l2);
        let entry = table.be64(slot)?;
        if entry & OFLAG_COMPRESSED != 0 {
            return Err(refuse("it has compressed clusters"));
        }
        let offset = entry & L2_OFFSET_MASK;
        if offset != 0 && entry & OFLAG_COPIED == 0 {
            return Err(refuse("one of its clusters is shared"));
        }
        Ok((offset != 0).then_some(offset))
    }

    /// Whether the cluster reads as zeroes by its entry alone.
    fn is_zero(&self, state: &State, slot: usize) -> Result<bool> {
        let table = Reader::new(&state.l2);
        if self.entry_len() == 16 {
            let bitmap = table.be64(slot + 8)?;
            return Ok((bitmap as u32 == 0 && self.header.backing.0 == 0) || bitmap >> SUBCLUSTERS == 0xffff_ffff);
        }
        let entry = table.be64(slot)?;
        let flagged = self.header.version > 2 && entry & OFLAG_ZERO != 0;
        Ok(flagged || (entry & L2_OFFSET_MASK == 0 && self.header.backing.0 == 0))
    }

    fn set(&self, state: &mut State, slot: usize, offset: u64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(offset | OFLAG_COPIED).to_be_bytes());
        bytes[8..].copy_from_slice(&((1u64 << SUBCLUSTERS) - 1).to_be_bytes());
        let width = self.entry_len();
        if let Some(place) = state.l2.get_mut(slot..slot + width)
            && *place != bytes[..width]
        {
            place.copy_from_slice(&bytes[..width]);
            state.l2_changed = true;
        }
    }

    fn put<'p>(&self, state: &mut State, at: u64, data: &'p [u8], steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let slot = self.find(state, at, steps)?;
        let (offset, data) = match self.lookup(state, slot)? {
            // What lies behind the written part of the disk stays as it is.
            Some(offset) if !self.is_zero(state, slot)? => {
                let len = (self.written - at).min(data.len() as u64) as usize;
                (offset, data.get(..len).unwrap_or_default())
            }
            Some(offset) => (offset, data),
            None => (state.refcounts.allocate(1)?, data),
        };
        self.set(state, slot, offset);
        steps.push(Placed::Step(Step::Write { device: self.device, offset, data }));
        Ok(())
    }

    fn zero(&self, state: &mut State, at: u64, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        let slot = self.find(state, at, steps)?;
        if self.is_zero(state, slot)? {
            return Ok(());
        }
        let cluster = self.header.cluster_size();
        let (offset, len) = match self.lookup(state, slot)? {
            Some(offset) => (offset, cluster.min(self.written - at)),
            None => (state.refcounts.allocate(1)?, cluster),
        };
        self.set(state, slot, offset);
        steps.push(Placed::Step(Step::Zero { device: self.device, offset, len, unmap: true }));
        Ok(())
    }
}

impl Writer for Existing<'_> {
    fn target(&self) -> Target {
        let unit = self.header.cluster_size();
        Target::Allocated { unit, zero_unit: unit, zeroed: self.empty }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let state = &mut *self.state.lock();
        let cluster = self.header.cluster_size();
        match piece {
            Piece::Data(bytes) => {
                for (i, data) in bytes.chunks(cluster as usize).enumerate() {
                    self.put(state, at + i as u64 * cluster, data, steps)?;
                }
                Ok(())
            }
            Piece::Zero(len) => (0..len.div_ceil(cluster)).try_for_each(|i| self.zero(state, at + i * cluster, steps)),
            Piece::Packed(_) | Piece::Copy(..) => Err(refuse("compressed clusters cannot be put into it")),
        }
    }

    fn finish(&self) -> Result<()> {
        let (machine, device, header) = (self.machine, self.device, &self.header);
        let state = &mut *self.state.lock();
        let mut steps = Vec::new();
        self.close(state, &mut steps)?;
        let table = state.refcounts.finish_resumed(&mut steps)?;
        let end = state.refcounts.end();
        if machine.stat(device)?.len < end {
            machine.submit(&[Step::SetLength { device, len: end }])?;
        }
        let plain: Vec<Step<'_>> = steps.iter().map(Placed::as_step).collect();
        machine.submit(&plain)?;
        machine.submit(&[Step::Barrier { device }])?;
        if let Some(data) = &table {
            machine.submit(&[Step::Write { device, offset: self.refcount_table, data }, Step::Barrier { device }])?;
        }
        if state.l1_changed {
            let l1: Vec<u8> = state.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            machine.submit(&[Step::Write { device, offset: header.l1_offset, data: &l1 }])?;
        }
        machine.submit(&[Step::Barrier { device }])
    }
}
