//! What becomes of a cluster's entry when something is put there.

use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Writer};
use instar_image::{Error, FileOffset, Result, Step};

use super::metadata::in_the_way;
use super::{Qcow2Editor, State};
use crate::cluster::ClusterNumber;
use crate::layout::{
    COMPRESSED_SECTOR, L2_OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED, OFLAG_ZERO, SUBCLUSTERS, host_of,
};

/// Clusters handed out for the piece at hand, adjacent: first, count.
type Pool = (ClusterNumber, u64);

/// A cluster of the disk: its table, where its entry is in it, and the entry.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    table: usize,
    at: usize,
    pub(super) entry: u64,
    /// Lower half: subclusters with data; upper half: subclusters that are zeroes. 0 without subclusters.
    pub(super) bitmap: u64,
}

impl Slot {
    pub(super) const fn host(&self) -> FileOffset {
        if self.entry & OFLAG_COMPRESSED != 0 { FileOffset::ZERO } else { host_of(self.entry) }
    }

    pub(super) fn is_own(&self) -> bool {
        self.host() != FileOffset::ZERO && self.entry & OFLAG_COPIED != 0
    }
}

impl<'a> Qcow2Editor<'a> {
    /// See [`instar_image::Writer::place`].
    pub(super) fn put<'p>(
        &self,
        state: &mut State<'a>,
        at: u64,
        piece: Piece<'p>,
        steps: &mut Vec<Placed<'p>>,
    ) -> Result<()> {
        self.put_to(state, at, piece, self.header.size, steps)
    }

    /// The same for a disk of `size` bytes.
    pub(super) fn put_to<'p>(
        &self,
        state: &mut State<'a>,
        at: u64,
        piece: Piece<'p>,
        size: u64,
        steps: &mut Vec<Placed<'p>>,
    ) -> Result<()> {
        let len = match piece {
            Piece::Data(bytes) => bytes.len() as u64,
            Piece::Copy(_, _, len) | Piece::Zero(len) => len,
            Piece::Compressed(bytes) => return self.put_compressed(state, at, bytes, steps),
        };
        if at.checked_add(len).is_none_or(|end| end > size.next_multiple_of(self.geometry.cluster_size())) {
            return Err(Error::usage("write past the end of the disk"));
        }
        let len = len.min(size.saturating_sub(at));
        let cluster = self.geometry.cluster_size();
        let mut pool = Pool::default();
        // What is being gathered: byte of the disk, place, length.
        let mut run: Option<(u64, FileOffset, u64)> = None;
        let mut done = 0;
        while done < len {
            let here = at + done;
            let part = (cluster - here % cluster).min(len - done);
            if let Piece::Zero(_) = piece {
                self.put_zero(state, here, part, steps)?;
            } else {
                let left = (len - done).div_ceil(cluster);
                let place = self.place_for(state, here, part, left, &mut pool, steps)?;
                run = match run {
                    Some((start, to, n)) if to + n == place => Some((start, to, n + part)),
                    Some(whole) => {
                        steps.push(self.write(piece, at, whole)?);
                        Some((here, place, part))
                    }
                    None => Some((here, place, part)),
                };
            }
            done += part;
        }
        if let Some(whole) = run {
            steps.push(self.write(piece, at, whole)?);
        }
        state.counts.take_back(pool.0, pool.1)
    }

    /// What puts part of `piece`, which begins at `at`, in its place.
    fn write<'p>(&self, piece: Piece<'p>, at: u64, (start, offset, len): (u64, FileOffset, u64)) -> Result<Placed<'p>> {
        let placed = piece.placed((start - at, len), start, self.geometry.data, offset, self.encrypter());
        placed.ok_or_else(|| Error::corrupt("a piece that cannot be put there"))
    }

    /// What makes `len` bytes from byte `at` of the disk on, which have their place at `offset`, zeroes.
    pub(super) fn zeroes<'p>(&self, at: u64, offset: FileOffset, len: u64) -> Option<Placed<'p>> {
        Piece::Zero(len).placed((0, len), at, self.geometry.data, offset, self.encrypter())
    }

    pub(super) fn slot(&self, state: &mut State<'a>, at: u64) -> Result<Slot> {
        let g = &self.geometry;
        let cluster = at >> g.cluster_bits;
        let table = usize::try_from(cluster >> g.table_bits()).unwrap_or(usize::MAX);
        let place = (g.index_in_table(cluster) << g.entry_bits) as usize;
        let reader = Reader::new(state.tables.read(table)?);
        let entry = reader.be64(place)?;
        let bitmap = if g.entry_bits == 4 { reader.be64(place + 8)? } else { 0 };
        if entry & OFLAG_COMPRESSED == 0 && !host_of(entry).is_multiple_of(g.cluster_size()) {
            return Err(Error::corrupt("the image is corrupt: a cluster's place is not aligned"));
        }
        Ok(Slot { table, at: place, entry, bitmap })
    }

    fn set(&self, state: &mut State<'a>, slot: Slot, entry: u64, bitmap: u64) -> Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&entry.to_be_bytes());
        bytes[8..].copy_from_slice(&bitmap.to_be_bytes());
        let width = 1usize << self.geometry.entry_bits;
        state.tables.change(slot.table, slot.at, bytes.get(..width).unwrap_or_default(), &mut state.counts)
    }

    /// The subclusters of a cluster that `len` bytes from `at` on are, as bits of the lower half.
    pub(super) fn bits(&self, at: u64, len: u64) -> u64 {
        let g = &self.geometry;
        if g.entry_bits != 4 {
            return 0;
        }
        let inside = at % g.cluster_size();
        let (first, end) = (inside >> g.unit_bits(), (inside + len).div_ceil(g.unit_size()));
        (1u64.unbounded_shl(end as u32) - 1) & !(1u64.unbounded_shl(first as u32) - 1)
    }

    /// A place of this disk's own for `len` bytes at `at`, which are in one cluster. The entry says so from
    /// now on. At most `left` clusters from this one on are going to be asked for.
    fn place_for(
        &self,
        state: &mut State<'a>,
        at: u64,
        len: u64,
        left: u64,
        pool: &mut Pool,
        steps: &mut Vec<Placed<'_>>,
    ) -> Result<FileOffset> {
        let g = &self.geometry;
        let (slot, inside) = (self.slot(state, at)?, at % g.cluster_size());
        let wanted = self.bits(at, len);
        if g.external {
            // A cluster lies there where it does in the disk.
            let entry = (at - inside) | OFLAG_COPIED;
            self.set(state, slot, entry, slot.bitmap & !(wanted << SUBCLUSTERS) | wanted)?;
            return Ok(FileOffset::new(at));
        }
        let compressed = slot.entry & OFLAG_COMPRESSED != 0;
        let end = (self.header.size - (at - inside)).min(g.cluster_size());
        if compressed && (inside != 0 || len < end) {
            return Err(Error::corrupt("part of a compressed cluster cannot be written"));
        }
        let old = if compressed { 0 } else { slot.bitmap };
        let bitmap = old & !(wanted << SUBCLUSTERS) | wanted;
        if slot.is_own() && self.metadata.holds(state, ClusterNumber::of(slot.host(), g.cluster_bits)) {
            return Err(in_the_way());
        }
        let (host, fresh) = if slot.is_own() { (slot.host(), false) } else { (self.take(state, left, pool)?, true) };
        if fresh {
            self.give_up_entry(state, slot.entry);
            self.keep_rest(slot, old & 0xffff_ffff & !wanted, host, steps);
        }
        let held = if g.entry_bits == 4 { old & wanted == wanted } else { slot.entry & OFLAG_ZERO == 0 };
        let tail = if g.entry_bits == 4 { (inside + len).next_multiple_of(g.unit_size()) } else { g.cluster_size() };
        if (fresh || !held) && inside + len < tail {
            // Behind the disk's end, so that nothing old shows when it grows.
            let offset = host + inside + len;
            steps.extend(self.zeroes(at + len, offset, tail - inside - len));
        }
        self.set(state, slot, host.get() | OFLAG_COPIED, bitmap)?;
        Ok(host + inside)
    }

    /// The next cluster of the pool, which is filled when it is empty.
    fn take(&self, state: &mut State<'a>, left: u64, pool: &mut Pool) -> Result<FileOffset> {
        if pool.1 == 0 {
            *pool = state.counts.allocate_some(left)?;
        }
        let host = pool.0.offset(self.geometry.cluster_bits);
        *pool = (pool.0 + 1, pool.1 - 1);
        Ok(host)
    }

    /// Copies those subclusters of a shared cluster that stay.
    fn keep_rest(&self, slot: Slot, mut stay: u64, host: FileOffset, steps: &mut Vec<Placed<'_>>) {
        let (unit, device) = (self.geometry.unit_size(), self.geometry.data);
        while slot.host() != FileOffset::ZERO && stay != 0 {
            let first = stay.trailing_zeros();
            let count = (stay >> first).trailing_ones();
            let skip = u64::from(first) * unit;
            steps.push(Placed::Step(Step::Copy {
                from: device,
                from_offset: slot.host() + skip,
                to: device,
                to_offset: host + skip,
                len: u64::from(count) * unit,
                zeroes: instar_image::Zeroes::Copied,
            }));
            stay &= !((1u64.unbounded_shl(count) - 1) << first);
        }
    }

    fn put_zero(&self, state: &mut State<'a>, at: u64, len: u64, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        let g = &self.geometry;
        let slot = self.slot(state, at)?;
        let empty = slot.entry & (L2_OFFSET_MASK | OFLAG_COMPRESSED | OFLAG_COPIED | OFLAG_ZERO) == 0;
        if empty && slot.bitmap == 0 && self.unbacked && !g.external {
            return Ok(());
        }
        if g.external || (self.header.version < 3 && !self.unbacked) {
            // Version 2 has no zero clusters, and a data file may have to be good as a raw image.
            let mut pool = Pool::default();
            let offset = self.place_for(state, at, len, 1, &mut pool, steps)?;
            steps.extend(self.zeroes(at, offset, len));
            return Ok(());
        }
        let compressed = slot.entry & OFLAG_COMPRESSED != 0;
        if g.entry_bits == 4 {
            let wanted = self.bits(at, len);
            let whole = at.is_multiple_of(g.cluster_size()) && at + len >= self.header.size.min(at + g.cluster_size());
            if compressed && !whole {
                return Err(Error::corrupt("part of a compressed cluster cannot be written"));
            }
            let (entry, old) = if compressed { (0, 0) } else { (slot.entry, slot.bitmap) };
            if compressed {
                self.give_up_entry(state, slot.entry);
            }
            let bitmap = old & !wanted | wanted << SUBCLUSTERS;
            if bitmap & u64::from(u32::MAX) == 0 {
                self.give_up_entry(state, entry);
                return self.set(state, slot, 0, bitmap);
            }
            return self.set(state, slot, entry, bitmap);
        }
        // Its place is given up, to the file system at last.
        self.give_up_entry(state, slot.entry);
        self.set(state, slot, if self.unbacked { 0 } else { OFLAG_ZERO }, 0)
    }

    fn put_compressed<'p>(
        &self,
        state: &mut State<'a>,
        at: u64,
        bytes: &'p [u8],
        steps: &mut Vec<Placed<'p>>,
    ) -> Result<()> {
        let g = &self.geometry;
        if g.external {
            return Err(Error::unsupported("compressed clusters cannot be in a data file"));
        }
        let slot = self.slot(state, at)?;
        let len = bytes.len().max(1) as u64;
        let offset = self.room_for(state, len)?;
        let end = offset + len;
        state.compressed_at = (!end.is_multiple_of(g.cluster_size())).then_some(end);
        self.give_up_entry(state, slot.entry);
        let sectors = (end - 1) / COMPRESSED_SECTOR - offset / COMPRESSED_SECTOR;
        let entry = OFLAG_COMPRESSED | sectors << (62 - (g.cluster_bits - 8)) | offset.get();
        self.set(state, slot, entry, 0)?;
        steps.push(Placed::Step(Step::Write { device: self.device, offset, data: bytes }));
        Ok(())
    }

    /// A place for `len` compressed bytes: behind the last ones where that has room.
    fn room_for(&self, state: &mut State<'a>, len: u64) -> Result<FileOffset> {
        let bits = self.geometry.cluster_bits;
        let Some(offset) = state.compressed_at.filter(|_| state.counts.max() > 1) else {
            return Ok(state.counts.allocate(1)?.offset(bits));
        };
        let (here, last) = (ClusterNumber::of(offset, bits), ClusterNumber::of(offset + len - 1, bits));
        if last > here {
            let (next, _) = state.counts.allocate_some(1)?;
            // It reaches into the next cluster only if that is the next one.
            if next != last {
                return Ok(next.offset(bits));
            }
            if !state.counts.add_reference(here)? {
                return Ok(next.offset(bits));
            }
            return Ok(offset);
        }
        if state.counts.add_reference(here)? {
            return Ok(offset);
        }
        Ok(state.counts.allocate(1)?.offset(bits))
    }
}
