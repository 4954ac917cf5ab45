//! Changing an image in place: `convert -n`, rebase, commit, resize.
//!
//! [`counts`] hands out clusters, [`tables`] holds the tables that change, [`entries`] decides what becomes of a
//! cluster, [`space`] gives the host back what is free, [`head`] rewrites the first cluster, [`metadata`] knows what no data may be written over, [`clear`] empties the disk, [`resize`] changes its size, [`tail`] clears
//! what lay behind its end, [`expand`] does without entries that version 2 does not have, [`tracker`] keeps persistent bitmaps up, [`mod@bitmaps`] changes them themselves, [`mod@snapshots`]
//! takes and gives up internal snapshots.
//!
//! Nothing that is stable refers to a new place before [`Qcow2Editor::settle`], which writes in this order, with a
//! barrier after each: counts and new tables; the refcount table; entries; the counts of what was given up; and last the
//! host is told what of that is free. Cut anywhere, there are leaks at worst.

mod bitmaps;
mod bits;
mod clear;
mod entries;
mod expand;
pub mod head;
mod metadata;
mod resize;
mod snapshots;
mod space;
mod tables;
mod tail;
mod tracker;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use instar_crypto::qcow::Key;
use instar_image::damage::Damage;
use instar_image::reader::Reader;
use instar_image::sealed::{self, Placed};
use instar_image::write::{Compressor, Encrypter, Piece, Target, Writer};
use instar_image::{
    Backing, BitmapEditor, Changes, DeviceId, Editor, Emptying, Error, Extent, FileOffset, Machine, Place, Rebasing,
    Result, SnapshotEditor, Spot, Step,
};
use spin::Mutex;

use crate::Qcow2Image;
use crate::cluster::ClusterNumber;
use crate::compressor::compressor;
use crate::entry::{Entries, Geometry};
use crate::header::{Compression, Header};
use crate::layout::{AUTOCLEAR_KNOWN, COMPRESSED_SECTOR, field, incompatible};
use crate::refcount::counts::Counts;
use head::Head;
use metadata::{Metadata, in_the_way};
use tables::Tables;
use tracker::Tracker;

/// Bytes of counts and tables that may wait in memory.
const WAITING_MAX: usize = 12 << 20;
/// Bytes that are encrypted as one.
const SECTOR: u64 = 512;

/// An image that is being changed.
pub struct Qcow2Editor<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    header: Header,
    geometry: Geometry,
    /// What the clusters are encrypted with.
    key: Option<Arc<Key>>,
    /// The persistent bitmaps, as they are going to be.
    work: Mutex<bitmaps::Work>,
    /// What no data may be written over.
    metadata: Metadata,
    /// Opened for its metadata alone: neither the key nor the data file is there.
    no_data: bool,
    /// The data file's length is its disk's, and it is to hold what a raw image would.
    external: bool,
    /// See [`Changes::content`].
    changes_content: bool,
    /// Bytes of what is placed: clusters, or subclusters where only what is not allocated is written.
    unit: u64,
    /// What is not allocated reads as zeroes, and will.
    unbacked: bool,
    /// The disk held nothing, and has no backing file.
    blank: bool,
    /// Bits that no program knows were set: they go before anything is changed.
    stale_autoclear: Mutex<bool>,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    counts: Counts<'a>,
    tables: Tables<'a>,
    /// Where the next compressed cluster may begin, in the middle of a cluster.
    compressed_at: Option<FileOffset>,
    bitmaps: Tracker<'a>,
}

fn refuse(why: &str) -> Error {
    Error::unsupported("writing into this image is not supported").with_hint(why)
}

impl<'a> Qcow2Editor<'a> {
    /// Refuses an image that must not be written to. Of one that was opened for its metadata no data may be placed.
    pub fn open(image: &Qcow2Image<'a>, changes: &Changes<'_>) -> Result<Self> {
        let (machine, device, header) = (image.purpose.machine()?, image.device, image.header.clone());
        if header.has(incompatible::DIRTY) {
            return Err(refuse("it was not closed: it is repaired when something is to be written"));
        }
        let geometry = image.geometry;
        if geometry.encrypted && changes.compressed {
            return Err(Error::unsupported("Compression and encryption not supported at the same time"));
        }
        if geometry.encrypted && !header.size.is_multiple_of(SECTOR) {
            return Err(refuse("it is encrypted, and ends within a sector"));
        }
        let state = State {
            counts: Counts::open(machine, device, &header)?,
            tables: Tables::open(machine, device, &header)?,
            compressed_at: None,
            bitmaps: Tracker::open(machine, device, &header, &image.bitmaps)?,
        };
        // A cluster that is encrypted cannot be moved in parts: its sectors may be counted in the file.
        let whole = changes.content || changes.compressed || geometry.encrypted;
        let unit = if whole { geometry.cluster_size() } else { geometry.unit_size() };
        // Who does not change what the disk shows is about to change what is below it.
        let unbacked = header.backing.0 == FileOffset::ZERO && changes.content;
        let blank = unbacked && state.tables.is_blank();
        Ok(Self {
            machine,
            device,
            geometry,
            key: image.encryption.key.clone(),
            work: Mutex::new(bitmaps::Work::new(image.bitmaps.clone(), image.extensions.bitmaps)),
            metadata: Metadata::of(image, &state.tables, &state.counts),
            no_data: !image.purpose.wants_data(),
            external: geometry.external,
            changes_content: changes.content,
            unit,
            unbacked,
            blank,
            stale_autoclear: Mutex::new(header.autoclear & !AUTOCLEAR_KNOWN != 0),
            header,
            state: Mutex::new(state),
        })
    }

    fn check_data(&self) -> Result<()> {
        if self.no_data {
            Err(Error::corrupt("an image that was opened for its metadata is to hold data"))
        } else {
            Ok(())
        }
    }

    /// Bytes of the disk that one L2 table covers.
    const fn reach(&self) -> u64 {
        1 << self.header.l1_coverage_bits()
    }

    /// See [`instar_image::Image::extent`].
    pub fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        self.extent_in(&mut self.state.lock(), at, max)
    }

    fn extent_in(&self, state: &mut State<'a>, at: u64, max: u64) -> Result<Extent> {
        let left = self.header.size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let (reach, first) = (self.reach(), usize::try_from(at / self.reach()).unwrap_or(usize::MAX));
        let (end, mut index) = (at.saturating_add(left), first);
        while index as u64 * reach < end && state.tables.is_absent(index) {
            index += 1;
        }
        if index > first {
            return Ok(Extent { at, len: (index as u64 * reach).min(end) - at, place: Place::Unallocated });
        }
        let (table, first) = (state.tables.offset(index)?, (index as u64) << self.geometry.table_bits());
        let reader = Reader::new(state.tables.read(index)?);
        let entries = Entries { reader, damage: &Damage::none(), first, table, geometry: &self.geometry };
        entries.merged(self.device, first.saturating_add(1 << self.geometry.table_bits()), at, left)
    }

    /// Carries out what [`Qcow2Editor::put_to`] asks for.
    fn submit_placed(&self, steps: Vec<Placed<'_>>) -> Result<()> {
        sealed::submit(self.machine, steps, self.encrypter())
    }

    fn submit(&self, steps: &mut Vec<Placed<'_>>) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        sealed::submit(self.machine, steps.drain(..), None)?;
        self.barrier()
    }

    fn barrier(&self) -> Result<()> {
        if self.external {
            self.machine.submit(&[Step::Barrier { device: self.geometry.data }])?;
        }
        self.machine.submit(&[Step::Barrier { device: self.device }])
    }

    /// Feature bits that nobody knows are cleared by whoever changes the image (spec, "Header").
    fn clear_stale(&self) -> Result<()> {
        let mut stale = self.stale_autoclear.lock();
        if *stale {
            let data = (self.header.autoclear & AUTOCLEAR_KNOWN).to_be_bytes();
            let offset = FileOffset::new(field::AUTOCLEAR as u64);
            self.machine.submit(&[Step::Write { device: self.device, offset, data: &data }])?;
            self.barrier()?;
            *stale = false;
        }
        Ok(())
    }

    fn settle_state(&self, state: &mut State<'_>) -> Result<()> {
        self.settle_new(state)?;
        self.settle_old(state)
    }

    /// Makes new places part of the image.
    fn settle_new(&self, state: &mut State<'_>) -> Result<()> {
        self.clear_stale()?;
        let mut steps = Vec::new();
        state.tables.drop_empty(&mut state.counts)?;
        state.counts.write(&mut steps)?;
        state.tables.write_fresh(&mut steps);
        if let Some(end) = state.compressed_at.take() {
            // Compressed clusters are read in whole sectors.
            let len = end.next_multiple_of(COMPRESSED_SECTOR) - end;
            let tail = Step::Zero { device: self.device, offset: end, len, unmap: true };
            steps.extend((len > 0).then_some(Placed::Step(tail)));
        }
        if steps.is_empty() {
            // What was overwritten in place.
            self.barrier()?;
        }
        self.submit(&mut steps)?;
        state.counts.publish()?;
        state.tables.write_references(&mut steps);
        self.submit(&mut steps)
    }

    /// Gives up old ones, which nothing refers to any more.
    fn settle_old(&self, state: &mut State<'_>) -> Result<()> {
        let mut steps = Vec::new();
        if state.counts.has_releases() {
            state.counts.apply_releases()?;
            state.counts.write(&mut steps)?;
            self.submit(&mut steps)?;
            state.counts.publish()?;
        }
        self.discard(state)
    }
}

impl Writer for Qcow2Editor<'_> {
    fn target(&self) -> Target {
        Target::Allocated { unit: self.unit, zero_unit: self.unit, zeroed: self.blank }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        self.check_data()?;
        let state = &mut *self.state.lock();
        if self.changes_content {
            let len = match piece {
                Piece::Data(bytes) => bytes.len() as u64,
                Piece::Copy(_, _, len) | Piece::Zero(len) => len,
                Piece::Compressed(_) => self.geometry.cluster_size(),
            };
            state.bitmaps.touch(at, len.min(self.header.size.saturating_sub(at)), &mut state.counts)?;
        }
        self.put(state, at, piece, steps)
    }

    fn encrypter(&self) -> Option<&dyn Encrypter> {
        self.key.as_deref().map(|key| key as &dyn Encrypter)
    }

    fn compressor(&self) -> Option<Box<dyn Compressor + '_>> {
        (!self.external).then(|| compressor(self.header.compression == Compression::Zstd))
    }

    fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.counts.waiting().saturating_add(state.tables.waiting()) > WAITING_MAX
    }

    fn settle(&self) -> Result<()> {
        self.settle_state(&mut self.state.lock())
    }

    fn finish(&self) -> Result<()> {
        let state = &mut *self.state.lock();
        state.bitmaps.write_back(&mut state.counts)?;
        self.settle_new(state)?;
        state.bitmaps.end()?;
        self.settle_old(state)?;
        self.give_back(state)
    }
}

impl Editor for Qcow2Editor<'_> {
    /// A cluster that this disk alone refers to, and that is not compressed.
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        self.check_data()?;
        let (g, state) = (&self.geometry, &mut *self.state.lock());
        let max = max.min(g.cluster_size() - at % g.cluster_size());
        let found = self.extent_in(state, at, max)?;
        let (Place::Data { device, offset } | Place::Encrypted { device, offset }) = found.place else {
            return Ok(None);
        };
        let slot = self.slot(state, at)?;
        if !g.external && !slot.is_own() {
            return Ok(None);
        }
        if !g.external && self.metadata.holds(state, ClusterNumber::of(slot.host(), g.cluster_bits)) {
            return Err(in_the_way());
        }
        self.clear_stale()?;
        if self.changes_content {
            state.bitmaps.touch(at, found.len, &mut state.counts)?;
        }
        Ok(Some(Spot { device, offset, len: found.len }))
    }

    fn rebasing(&self) -> Option<&dyn Rebasing> {
        Some(self)
    }

    fn emptying(&self) -> Option<&dyn Emptying> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn SnapshotEditor> {
        Some(self)
    }

    fn bitmaps(&self) -> Option<&dyn BitmapEditor> {
        Some(self)
    }
}

impl Rebasing for Qcow2Editor<'_> {
    fn set_backing(&self, backing: Option<&Backing>) -> Result<()> {
        self.settle()?;
        let head = Head::read(self.machine, self.device, &self.header)?;
        head.with_backing(backing)?.write(self.machine, self.device)?;
        self.give_back(&mut self.state.lock())
    }
}

impl Emptying for Qcow2Editor<'_> {
    fn empty(&self) -> Result<()> {
        self.clear_stale()?;
        self.clear(&mut self.state.lock())
    }
}
