//! The writer that allocates clusters as data comes.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::sealed::Placed;
use instar_image::write::{Compressor, Encrypter, Piece, Target, Writer};
use instar_image::{Error, FileOffset, Result, Step};
use spin::Mutex;

use super::fresh::Layout;
use super::header::{self, Tables};
use super::spec::Codec;
use super::{NewImage, l1_bytes, l1_entry};
use crate::cluster::{self, ClusterNumber};
use crate::compressor::compressor;
use crate::layout::{COMPRESSED_SECTOR, OFLAG_COMPRESSED, OFLAG_COPIED, OFLAG_ZERO, SUBCLUSTERS};
use crate::refcount::stream::Refcounts;

/// Writes an image whose clusters get their places as they come.
pub struct Clusters<'a> {
    image: NewImage<'a>,
    state: Mutex<State>,
}

struct State {
    refcounts: Refcounts,
    /// Where the L1 table is, once it is placed.
    l1_offset: Option<FileOffset>,
    /// Where the LUKS header is behind it, where there is one.
    luks_offset: FileOffset,
    l1: Vec<u64>,
    /// The L2 table that is being filled, and its number.
    l2: Vec<u8>,
    l2_index: Option<usize>,
    /// Where the next compressed cluster may begin in the middle of a cluster.
    compressed_at: Option<FileOffset>,
}

impl<'a> Clusters<'a> {
    /// Nothing is written yet.
    pub fn new(image: NewImage<'a>) -> Self {
        let refcounts = Refcounts::new(image.device, image.spec.refcounts());
        let l1 = vec![0; usize::try_from(image.spec.l1_entries).unwrap_or(0)];
        let state = State {
            refcounts,
            l1_offset: None,
            luks_offset: FileOffset::ZERO,
            l1,
            l2: Vec::new(),
            l2_index: None,
            compressed_at: None,
        };
        Self { image, state: Mutex::new(state) }
    }

    /// Header and L1 table come first in the file.
    fn begin(&self, state: &mut State) -> Result<FileOffset> {
        if let Some(offset) = state.l1_offset {
            return Ok(offset);
        }
        let cluster = self.image.spec.cluster();
        state.refcounts.allocate(1)?;
        let offset = state.refcounts.allocate(l1_bytes(&self.image.spec).div_ceil(cluster))?;
        state.l1_offset = Some(offset);
        if self.image.spec.luks_len > 0 {
            state.luks_offset = state.refcounts.allocate(self.image.spec.luks_clusters())?;
        }
        Ok(offset)
    }

    /// Writes the L2 table that is being filled.
    fn close_l2(&self, state: &mut State, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        if let Some(index) = state.l2_index.take() {
            let offset = state.refcounts.allocate(1)?;
            if let Some(entry) = state.l1.get_mut(index) {
                *entry = l1_entry(offset);
            }
            steps.push(Placed::Owned { device: self.image.device, offset, data: core::mem::take(&mut state.l2) });
        }
        Ok(())
    }

    /// Sets the entry (and bitmap) of the cluster at byte `at` of the disk.
    fn map(&self, state: &mut State, at: u64, entry: u64, bitmap: u64, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        let spec = &self.image.spec;
        let table = usize::try_from(at / spec.l2_reach()).unwrap_or(usize::MAX);
        if state.l2_index != Some(table) {
            self.close_l2(state, steps)?;
            state.l2_index = Some(table);
            state.l2 = vec![0; 1 << spec.cluster_bits];
        }
        let index = ((at >> spec.cluster_bits) % spec.l2_entries() * spec.l2_entry()) as usize;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&entry.to_be_bytes());
        bytes[8..].copy_from_slice(&bitmap.to_be_bytes());
        let width = spec.l2_entry() as usize;
        if let Some(place) = state.l2.get_mut(index..index + width) {
            place.copy_from_slice(&bytes[..width]);
        }
        Ok(())
    }

    /// Maps `count` clusters of plain data from byte `at` of the disk on; returns the device and offset for them.
    fn place_plain(
        &self,
        state: &mut State,
        at: u64,
        count: u64,
        steps: &mut Vec<Placed<'_>>,
    ) -> Result<(instar_image::DeviceId, FileOffset)> {
        let spec = &self.image.spec;
        let all = (1 << SUBCLUSTERS) - 1;
        let bitmap = if spec.extended_l2 { all } else { 0 };
        // A table that is full goes before the data, so that the data stays in one piece.
        let table = usize::try_from(at / spec.l2_reach()).unwrap_or(usize::MAX);
        if state.l2_index.is_some_and(|index| index != table) {
            self.close_l2(state, steps)?;
        }
        let (device, offset) = match self.image.data {
            // Each there where it is in the disk.
            Some(device) => (device, FileOffset::new(at)),
            None => (self.image.device, state.refcounts.allocate(count)?),
        };
        for i in 0..count {
            let step = i << spec.cluster_bits;
            self.map(state, at + step, (offset + step).get() | OFLAG_COPIED, bitmap, steps)?;
        }
        Ok((device, offset))
    }

    fn place_compressed<'p>(
        &self,
        state: &mut State,
        at: u64,
        bytes: &'p [u8],
        steps: &mut Vec<Placed<'p>>,
    ) -> Result<()> {
        let spec = &self.image.spec;
        let (bits, cluster) = (spec.cluster_bits, spec.cluster());
        let len = bytes.len() as u64;
        let offset = match state.compressed_at {
            Some(offset) if self.fits(state, offset, len) => offset,
            _ => state.refcounts.allocate(1)?,
        };
        let last = offset + len.max(1) - 1;
        let here = ClusterNumber::of(offset, bits);
        for touched in cluster::each(here..ClusterNumber::of(last, bits) + 1) {
            if touched.offset(bits) >= state.refcounts.end() {
                state.refcounts.allocate(1)?;
            } else if !offset.is_multiple_of(cluster) && touched == here {
                let count = state.refcounts.get(touched);
                state.refcounts.set(touched, count + 1);
            }
        }
        let end = offset + len;
        state.compressed_at = (!end.is_multiple_of(cluster)).then_some(end);
        let sectors = last / COMPRESSED_SECTOR - offset / COMPRESSED_SECTOR;
        let entry = OFLAG_COMPRESSED | sectors << (62 - (bits - 8)) | offset.get();
        self.map(state, at, entry, 0, steps)?;
        steps.push(Placed::Step(Step::Write { device: self.image.device, offset, data: bytes }));
        Ok(())
    }

    /// Whether `len` compressed bytes may begin at `offset`, in the middle of a cluster: its count has room, and if
    /// they reach into the next one, that is the next free one.
    fn fits(&self, state: &State, offset: FileOffset, len: u64) -> bool {
        let bits = self.image.spec.cluster_bits;
        let here = ClusterNumber::of(offset, bits);
        let stays = ClusterNumber::of(offset + len - 1, bits) == here;
        state.refcounts.get(here) < state.refcounts.max() && (stays || state.refcounts.end() == (here + 1).offset(bits))
    }

    fn place_zero<'p>(&self, state: &mut State, at: u64, len: u64, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let spec = &self.image.spec;
        let mut done = 0;
        while done < len {
            if spec.version < 3 {
                // Version 2 has no zero clusters: they are written.
                let (device, offset) = self.place_plain(state, at + done, 1, steps)?;
                let (zeroes, encrypter) = (Piece::Zero(spec.cluster()), self.image.encrypter());
                steps.extend(zeroes.placed((0, spec.cluster()), at + done, device, offset, encrypter));
            } else if spec.extended_l2 {
                let all = ((1u64 << SUBCLUSTERS) - 1) << SUBCLUSTERS;
                self.map(state, at + done, 0, all, steps)?;
            } else {
                self.map(state, at + done, OFLAG_ZERO, 0, steps)?;
            }
            done += spec.cluster();
        }
        Ok(())
    }
}

impl Writer for Clusters<'_> {
    fn target(&self) -> Target {
        let unit = self.image.spec.cluster();
        Target::Allocated { unit, zero_unit: unit, zeroed: self.image.spec.backing.is_none() }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let spec = &self.image.spec;
        let state = &mut *self.state.lock();
        self.begin(state)?;
        match piece {
            Piece::Compressed(bytes) if self.image.data.is_none() => self.place_compressed(state, at, bytes, steps)?,
            Piece::Compressed(_) => return Err(Error::unsupported("compressed clusters cannot be in a data file")),
            Piece::Zero(len) => self.place_zero(state, at, len, steps)?,
            Piece::Data(_) | Piece::Copy(..) => {
                let len = match piece {
                    Piece::Data(bytes) => bytes.len() as u64,
                    Piece::Copy(_, _, len) => len,
                    _ => 0,
                };
                // In parts that one L2 table maps.
                let mut done = 0;
                while done < len {
                    let reach = spec.l2_reach() - (at + done) % spec.l2_reach();
                    let part = reach.min(len - done);
                    let count = part.div_ceil(spec.cluster());
                    let (device, offset) = self.place_plain(state, at + done, count, steps)?;
                    let placed = piece.placed((done, part), at + done, device, offset, self.image.encrypter());
                    steps.push(placed.ok_or_else(|| Error::corrupt("a piece shorter than it says"))?);
                    done += part;
                }
            }
        }
        let settled = state.compressed_at.map_or(state.refcounts.end(), |at| at.min(state.refcounts.end()));
        state.refcounts.flush(settled, steps)
    }

    fn encrypter(&self) -> Option<&dyn Encrypter> {
        self.image.encrypter()
    }

    fn compressor(&self) -> Option<Box<dyn Compressor + '_>> {
        // External data files hold plain clusters only.
        if self.image.data.is_some() {
            return None;
        }
        Some(compressor(self.image.spec.codec == Codec::Zstd))
    }

    fn finish(&self) -> Result<()> {
        let NewImage { machine, device, data, ref spec, ref sealed } = self.image;
        let state = &mut *self.state.lock();
        if state.l1_offset.is_none() {
            let layout = Layout::new(spec)?;
            layout.reserve(&self.image)?;
            return layout.finish(&self.image, None);
        }
        let l1 = self.begin(state)?;
        // All of it is written before anything says that it is there.
        header::encode(spec, Tables::default())?;
        let mut steps = Vec::new();
        self.close_l2(state, &mut steps)?;
        let mut table: Vec<u8> = state.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        table.resize(table.len().next_multiple_of(1 << spec.cluster_bits), 0);
        steps.push(Placed::Owned { device, offset: l1, data: table });
        let (refcounts, refcount_clusters) = state.refcounts.finish(&mut steps)?;
        machine.submit(&[Step::SetLength { device, len: state.refcounts.end().get() }])?;
        instar_image::sealed::submit(machine, steps, None)?;
        if let Some(sealed) = sealed {
            sealed.write(machine, device, state.luks_offset, spec)?;
        }
        if let Some(device) = data {
            machine.submit(&[Step::SetLength { device, len: spec.size }, Step::Barrier { device }])?;
        }
        let head = header::encode(spec, Tables { l1, refcounts, refcount_clusters, luks: state.luks_offset })?;
        machine.submit(&[
            Step::Barrier { device },
            Step::Write { device, offset: FileOffset::ZERO, data: &head },
            Step::Barrier { device },
        ])
    }
}
