//! A new image without data: its tables, and the clusters that preallocation reserves, in the places that QEMU gives
//! them.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::create::check_room;
use instar_image::{FileOffset, Result, Step};

use super::header::{self, Tables};
use super::spec::{Preallocation, Spec};
use super::{NewImage, l1_bytes, l1_entry};
use crate::cluster::ClusterNumber;
use crate::layout::{OFLAG_COPIED, SUBCLUSTERS};
use crate::refcount::allocator::{Allocator, Runs};

/// Largest part of the disk that QEMU reserves at once, in bytes.
const RESERVED_AT_ONCE: u64 = i32::MAX as u64;
/// Largest part of an L2 table that QEMU holds at once, in bytes.
const SLICE_BYTES: u64 = 65536;
/// Metadata written at once, in bytes.
const WRITTEN_AT_ONCE: usize = 1 << 20;

/// Clusters of the disk that lie in one piece.
#[derive(Clone, Copy, Debug)]
struct Piece {
    disk: u64,
    file: ClusterNumber,
    count: u64,
}

/// Where all is.
pub struct Layout {
    allocator: Allocator,
    /// Where the L1 table is.
    l1: FileOffset,
    /// Clusters of the L2 tables; empty without preallocation.
    l2: Vec<ClusterNumber>,
    pieces: Vec<Piece>,
    /// Where the LUKS header is.
    luks: FileOffset,
    /// End of the file.
    end: FileOffset,
}

impl Layout {
    /// For an image as `spec` wants it.
    pub fn new(spec: &Spec) -> Result<Self> {
        let mut allocator = Allocator::new(spec.refcounts());
        let bits = spec.cluster_bits;
        let mut l1 = FileOffset::ZERO;
        let mut file_end = allocator.end().offset(bits);
        if spec.l1_entries > 0 {
            let first = allocator.allocate(l1_bytes(spec).div_ceil(spec.cluster()))?;
            l1 = first.offset(bits);
            let end = l1 + l1_bytes(spec);
            // The last table's rest is not written.
            file_end = allocator.end().offset(bits);
            if file_end == end.next_multiple_of(spec.cluster()) {
                file_end = end;
            }
        }
        let mut layout =
            Self { allocator, l1, l2: Vec::new(), pieces: Vec::new(), luks: FileOffset::ZERO, end: file_end };
        match spec.preallocation {
            Preallocation::Off => {}
            Preallocation::Falloc | Preallocation::Full if spec.data_file.is_none() => {
                layout.reserve_whole(spec)?;
                layout.end = layout.allocator.end().offset(bits);
            }
            _ => {
                layout.reserve_in_turn(spec)?;
                layout.end = layout.end_with(spec);
            }
        }
        if spec.luks_len > 0 {
            layout.luks = layout.allocator.allocate(spec.luks_clusters())?.offset(bits);
            layout.end = layout.end.max(layout.allocator.end().offset(bits));
        }
        Ok(layout)
    }

    /// All clusters of the disk in one piece, behind refcount blocks enough for them; then the L2 tables.
    fn reserve_whole(&mut self, spec: &Spec) -> Result<()> {
        let count = spec.size.div_ceil(spec.cluster());
        let tables = count.div_ceil(spec.l2_entries());
        // Room for one L2 table more than is needed: QEMU does not look at what it has.
        let start = self.allocator.move_table(self.allocator.end(), count + tables + 1, true, None)?;
        self.allocator.allocate_at(start, count)?;
        if count > 0 {
            self.pieces.push(Piece { disk: 0, file: start, count });
        }
        for _ in 0..spec.l1_entries {
            let table = self.allocator.allocate(1)?;
            self.l2.push(table);
        }
        Ok(())
    }

    /// An L2 table and what it maps, in turn.
    fn reserve_in_turn(&mut self, spec: &Spec) -> Result<()> {
        let (cluster, entries) = (spec.cluster(), spec.l2_entries());
        let slice = SLICE_BYTES.min(cluster) / spec.l2_entry();
        let total = spec.size.div_ceil(cluster);
        let mut at = 0;
        while at < total {
            let mut left = (total - at).min(RESERVED_AT_ONCE / cluster);
            let mut behind = None;
            while left > 0 {
                if self.l2.len() as u64 == at / entries {
                    let table = self.allocator.allocate(1)?;
                    self.l2.push(table);
                }
                let count = left.min(slice - at % slice);
                let (file, count) = match behind {
                    // Each there where it is in the disk.
                    _ if spec.data_file.is_some() => (ClusterNumber::new(at), count),
                    None => (self.allocator.allocate(count)?, count),
                    Some(file) => (file, self.allocator.allocate_at(file, count)?),
                };
                if count == 0 {
                    break;
                }
                self.add(Piece { disk: at, file, count });
                at += count;
                left -= count;
                behind = Some(file + count);
            }
        }
        Ok(())
    }

    /// End of a file whose last cluster may be one that is reserved and not written: whole subclusters of it.
    fn end_with(&self, spec: &Spec) -> FileOffset {
        let end = self.allocator.end().offset(spec.cluster_bits);
        let Some(last) = self.pieces.last().filter(|last| last.file + last.count == self.allocator.end()) else {
            return if self.pieces.is_empty() { self.end } else { end };
        };
        let unused = spec.rounded().abs_diff((last.disk + last.count) << spec.cluster_bits);
        if spec.data_file.is_some() { end } else { end - unused }
    }

    fn add(&mut self, piece: Piece) {
        match self.pieces.last_mut() {
            Some(last) if last.disk + last.count == piece.disk && last.file + last.count == piece.file => {
                last.count += piece.count;
            }
            _ => self.pieces.push(piece),
        }
    }

    /// Where byte `at` of the disk is in the file, and how many bytes follow it in the same piece.
    pub fn find(&self, spec: &Spec, at: u64) -> Option<(FileOffset, u64)> {
        let cluster = at >> spec.cluster_bits;
        let index = self.pieces.partition_point(|piece| piece.disk + piece.count <= cluster);
        let piece = self.pieces.get(index).filter(|piece| piece.disk <= cluster)?;
        let skip = at - (piece.disk << spec.cluster_bits);
        Some((piece.file.offset(spec.cluster_bits) + skip, (piece.count << spec.cluster_bits) - skip))
    }

    /// Reserves the blocks, as far as it was asked for.
    pub fn reserve(&self, image: &NewImage<'_>) -> Result<()> {
        let NewImage { machine, device, data, ref spec, .. } = *image;
        check_room(machine, device, self.end.get()).map_err(|e| e.context("Could not resize image"))?;
        machine.submit(&[Step::SetLength { device, len: self.end.get() }])?;
        let full = match spec.preallocation {
            Preallocation::Off | Preallocation::Metadata => None,
            Preallocation::Falloc => Some(false),
            Preallocation::Full => Some(true),
        };
        let rounded = spec.rounded();
        if let Some(device) = data {
            // A raw data file was as long as the disk before its clusters were counted.
            let len = if self.pieces.is_empty() { spec.size } else { rounded };
            let there = if spec.keep_data_file { machine.stat(device)?.len } else { 0 };
            machine.submit(&[Step::SetLength { device, len: len.max(there) }])?;
        }
        let Some(full) = full.filter(|_| rounded > 0) else { return Ok(()) };
        let offset = self.find(spec, 0).map_or(FileOffset::ZERO, |(offset, _)| offset);
        let device = data.unwrap_or(device);
        machine.submit(&[Step::Allocate { device, offset, len: rounded, full }])
    }

    /// Writes the tables, and the header last. `written`: clusters of the disk with data, where subclusters tell them from
    /// those that are reserved only; `None`: all of them.
    pub fn finish(&self, image: &NewImage<'_>, written: Option<&Runs<u64>>) -> Result<()> {
        let NewImage { machine, device, data, ref spec, ref sealed } = *image;
        if let Some(sealed) = sealed {
            sealed.write(machine, device, self.luks, spec)?;
        }
        let mut batch = Batch { image, at: FileOffset::ZERO, bytes: Vec::new() };
        for (offset, bytes) in self.allocator.left() {
            batch.add(offset, bytes)?;
        }
        batch.flush()?;
        for (index, table) in (0u64..).zip(&self.l2) {
            batch.add(table.offset(spec.cluster_bits), &self.l2_bytes(spec, index, written))?;
        }
        if self.l2.is_empty() {
            machine.submit(&[Step::Zero { device, offset: self.l1, len: l1_bytes(spec), unmap: true }])?;
        } else {
            let entry = |table: &ClusterNumber| l1_entry(table.offset(spec.cluster_bits)).to_be_bytes();
            let entries = self.l2.iter().flat_map(entry);
            batch.add(self.l1, &entries.collect::<Vec<u8>>())?;
        }
        for (offset, bytes) in self.allocator.block_bytes() {
            batch.add(offset, &bytes)?;
        }
        let (refcounts, refcount_clusters) = self.allocator.table();
        batch.add(refcounts, &self.allocator.table_bytes())?;
        batch.flush()?;
        if let Some(device) = data {
            machine.submit(&[Step::Barrier { device }])?;
        }
        let head = header::encode(spec, Tables { l1: self.l1, refcounts, refcount_clusters, luks: self.luks })?;
        machine.submit(&[
            Step::Barrier { device },
            Step::Write { device, offset: FileOffset::ZERO, data: &head },
            Step::Barrier { device },
        ])
    }

    fn l2_bytes(&self, spec: &Spec, table: u64, written: Option<&Runs<u64>>) -> Vec<u8> {
        const ALL: u64 = (1 << SUBCLUSTERS) - 1;
        let mut bytes = vec![0; 1 << spec.cluster_bits];
        let begin = table * spec.l2_entries();
        let width = spec.l2_entry() as usize;
        let mut piece = (FileOffset::ZERO, 0);
        for (place, cluster) in bytes.chunks_exact_mut(width).zip(begin..) {
            if piece.1 == 0 {
                match self.find(spec, cluster << spec.cluster_bits) {
                    Some(found) => piece = found,
                    None => break,
                }
            }
            let has_data = written.is_none_or(|runs| runs.next(cluster).is_some_and(|(start, _)| start <= cluster));
            let bitmap = if has_data { ALL } else { 0 };
            for (byte, value) in place
                .iter_mut()
                .zip((piece.0.get() | OFLAG_COPIED).to_be_bytes().into_iter().chain(bitmap.to_be_bytes()))
            {
                *byte = value;
            }
            piece = (piece.0 + spec.cluster(), piece.1.saturating_sub(spec.cluster()));
        }
        bytes
    }
}

/// Adjacent metadata, written together.
struct Batch<'i, 'a> {
    image: &'i NewImage<'a>,
    at: FileOffset,
    bytes: Vec<u8>,
}

impl Batch<'_, '_> {
    fn add(&mut self, offset: FileOffset, bytes: &[u8]) -> Result<()> {
        if offset != self.at + self.bytes.len() as u64 || self.bytes.len() >= WRITTEN_AT_ONCE {
            self.flush()?;
            self.at = offset;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.bytes.is_empty() {
            let step = Step::Write { device: self.image.device, offset: self.at, data: &self.bytes };
            self.image.machine.submit(&[step])?;
            self.bytes.clear();
        }
        Ok(())
    }
}
