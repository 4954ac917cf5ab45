//! From the virtual disk to the file: the L1 table, the L2 tables, and what their entries mean.
//!
//! Both are read in large aligned pieces and a few pieces are kept, so a walk from front to back crosses to the
//! host once for every [`PIECE`] bytes of tables or more; small neighbouring L2 tables are fetched together. Nothing
//! depends on the size of the image but the numbers.

use alloc::vec::Vec;

use instar_image::damage::Damage;
use instar_image::reader::Reader;
use instar_image::table::{Span, TableCache};
use instar_image::{DeviceId, Error, Extent, FileOffset, Place, Read, Result, Source};
use spin::Mutex;

use crate::entry::{Content, Entries, Geometry, Spot};
use crate::layout::{L1_OFFSET_MASK, table_of};

/// Bytes of L2 tables fetched at once, to begin with.
const PIECE: u64 = 65536;
/// And where they are walked from front to back.
const PIECE_MAX: u64 = 4 * PIECE;
/// Pieces of L2 tables that are kept for each image. More do not help a walk, and a chain may have many images.
const PIECES: usize = 2;

/// The mapping of one image, or of one of its snapshots.
pub struct Map<'a> {
    source: &'a dyn Source,
    device: DeviceId,
    geometry: Geometry,
    /// Virtual size in bytes.
    size: u64,
    l1: Span,
    tables: Mutex<Tables<'a>>,
}

struct Tables<'a> {
    l1: TableCache<'a, 8>,
    l2: [L2Piece; PIECES],
    /// Which of `l2` was used last.
    latest: usize,
}

/// L2 entries of the clusters from number `first` on. A table that the L1 does not have is zeroes here: both
/// mean that nothing is allocated.
#[derive(Default)]
struct L2Piece {
    first: u64,
    /// Clusters; 0: nothing is held.
    count: u64,
    bytes: Vec<u8>,
    damage: Damage,
}

impl<'a> Tables<'a> {
    /// Nothing is read yet.
    fn new(source: &'a dyn Source, device: DeviceId) -> Self {
        Self { l1: TableCache::new(source, device), l2: Default::default(), latest: 0 }
    }
}

impl L2Piece {
    /// How many clusters the next piece has, which `cluster` is in: twice as many where this one has just been walked
    /// through, as far as that lets it begin at a multiple of its length.
    fn followed_by(&self, cluster: u64, entry_bits: u32) -> u64 {
        let least = PIECE >> entry_bits;
        if self.count < least || cluster != self.first.saturating_add(self.count) {
            return least;
        }
        let doubled = self.count.saturating_mul(2).min(PIECE_MAX >> entry_bits);
        if cluster.is_multiple_of(doubled) { doubled } else { self.count }
    }

    fn entries<'t>(&'t self, table: FileOffset, geometry: &'t Geometry) -> Entries<'t> {
        let Self { first, bytes, damage, .. } = self;
        Entries { reader: Reader::new(bytes), damage, first: *first, table, geometry }
    }

    const fn holds(&self, cluster: u64) -> bool {
        cluster >= self.first && cluster.wrapping_sub(self.first) < self.count
    }
}

impl<'a> Map<'a> {
    /// Nothing is read yet.
    pub fn new(source: &'a dyn Source, device: DeviceId, geometry: Geometry, size: u64, l1: Span) -> Self {
        let tables = Mutex::new(Tables::new(source, device));
        Self { source, device, geometry, size, l1, tables }
    }

    /// Shows another L1 table, of a disk of `size` bytes.
    pub fn set_l1(&mut self, l1: Span, size: u64) {
        (self.l1, self.size) = (l1, size);
        self.tables = Mutex::new(Tables::new(self.source, self.device));
    }

    /// The extent at `at`, at most `max` bytes.
    pub fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let left = self.size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let mut tables = self.tables.lock();
        let cluster = at >> self.geometry.cluster_bits;
        let index = cluster >> self.geometry.table_bits();
        // What is wrong with a table costs what the table is for, an entry only its cluster.
        let reach = 1u64.unbounded_shl(self.geometry.cluster_bits.saturating_add(self.geometry.table_bits()));
        let of_table = |e: Error| e.losing(reach.saturating_sub(at & reach.wrapping_sub(1)));
        let unit = self.geometry.unit_size();
        let of_unit = |e: Error| e.losing(unit.saturating_sub(at & unit.wrapping_sub(1)));
        let table = table_of(self.l1_entry(&mut tables.l1, index).map_err(of_table)?);
        if table == FileOffset::ZERO {
            let end = self.hole_end(&mut tables.l1, index, at.saturating_add(left))?;
            return Ok(Extent { at, len: end.saturating_sub(at), place: Place::Unallocated });
        }
        if !table.is_multiple_of(self.geometry.cluster_size()) {
            let what = format_args!("L2 table offset {table:#x} unaligned (L1 index: {})", Hex(index));
            return Err(of_table(corrupt(what)));
        }
        let piece = self.l2_piece(&mut tables, cluster)?;
        let entries = piece.entries(table, &self.geometry);
        entries.merged(self.device, piece.first.saturating_add(piece.count), at, left).map_err(of_unit)
    }

    /// The room that the unallocated byte `at` has in a cluster, if any.
    pub fn reserved(&self, at: u64) -> Result<Option<FileOffset>> {
        let mut tables = self.tables.lock();
        let g = &self.geometry;
        let cluster = at >> g.cluster_bits;
        let table = table_of(self.l1_entry(&mut tables.l1, cluster >> g.table_bits())?);
        if g.entry_bits != 4 || table == FileOffset::ZERO {
            return Ok(None);
        }
        let piece = self.l2_piece(&mut tables, cluster)?;
        let entries = piece.entries(table, g);
        Ok(match entries.content(Spot::of(g, at))?.0 {
            Content::Reserved(offset) => Some(offset.saturating_add(at & g.unit_size().wrapping_sub(1))),
            _ => None,
        })
    }

    /// Entry `index` of the L1 table; 0 behind its end.
    fn l1_entry(&self, cache: &mut TableCache<'_, 8>, index: u64) -> Result<u64> {
        Ok(cache.entry(self.l1, index)?.map_or(0, u64::from_be_bytes))
    }

    /// The byte of the virtual disk at which the run of absent L2 tables ends that `index` is in; at most `end`.
    fn hole_end(&self, l1: &mut TableCache<'_, 8>, index: u64, end: u64) -> Result<u64> {
        let bits = self.geometry.cluster_bits.saturating_add(self.geometry.table_bits());
        let mut next = index.saturating_add(1);
        while next < self.l1.count && next << bits < end {
            // What cannot be read is found out when it is its turn.
            if self.l1_entry(l1, next).map_or(true, |entry| entry & L1_OFFSET_MASK != 0) {
                return Ok((next << bits).min(end));
            }
            next = next.saturating_add(1);
        }
        Ok(end)
    }

    /// The piece of L2 tables that has `cluster`.
    fn l2_piece<'t>(&self, tables: &'t mut Tables<'_>, cluster: u64) -> Result<&'t L2Piece> {
        if let Some(found) = tables.l2.iter().position(|p| p.holds(cluster)) {
            tables.latest = found;
        } else {
            let victim = tables.latest.saturating_add(1) % PIECES;
            let Tables { l1, l2, latest } = tables;
            let wanted = l2.get(*latest).map_or(0, |last| last.followed_by(cluster, self.geometry.entry_bits));
            if let Some(piece) = l2.get_mut(victim) {
                piece.count = 0;
                self.fill(l1, piece, cluster, wanted)?;
            }
            *latest = victim;
        }
        let latest = tables.latest;
        tables.l2.get(latest).ok_or_else(|| Error::malformed("no such table"))
    }

    /// Fetches the tables of `wanted` clusters, a power of two, that `cluster` is among.
    fn fill(&self, l1: &mut TableCache<'_, 8>, piece: &mut L2Piece, cluster: u64, wanted: u64) -> Result<()> {
        let g = &self.geometry;
        let clusters = self.size.div_ceil(g.cluster_size());
        let first = cluster & !wanted.wrapping_sub(1);
        let count = clusters.saturating_sub(first).min(wanted);
        piece.bytes.clear();
        piece.bytes.resize(usize::try_from(count << g.entry_bits).unwrap_or_default(), 0);
        // A piece is a part of one table, or several whole ones.
        let run = wanted.min(1 << g.table_bits());
        let run_bytes = usize::try_from(run << g.entry_bits).unwrap_or(usize::MAX).max(1);
        let mut places: Vec<Result<Option<FileOffset>>> = Vec::new();
        for at in (first..first.saturating_add(count)).step_by(usize::try_from(run).unwrap_or(usize::MAX)) {
            let table = self.l1_entry(l1, at >> g.table_bits()).map(table_of);
            let offset = |table: FileOffset| table.saturating_add(g.index_in_table(at) << g.entry_bits);
            let is_table = |table: &FileOffset| *table != FileOffset::ZERO && table.is_multiple_of(g.cluster_size());
            places.push(table.map(|table| Some(table).filter(is_table).map(offset)));
        }
        let device = self.device;
        let runs = piece.bytes.chunks_mut(run_bytes).zip(&places);
        let read = |(buf, place): (_, &Result<Option<FileOffset>>)| match *place {
            Ok(Some(offset)) => Some(Read { device, offset, buf }),
            _ => None,
        };
        let whole = self.source.read_many(&mut runs.filter_map(read).collect::<Vec<_>>()).is_ok();
        piece.damage = Damage::none();
        for (i, (buf, place)) in piece.bytes.chunks_mut(run_bytes).zip(&places).enumerate() {
            let start = i * run_bytes;
            match place {
                Err(error) => piece.damage.add(start..start + buf.len(), error),
                Ok(Some(offset)) if !whole => {
                    let read = |skip, buf: &mut [u8]| self.source.read(device, offset.saturating_add(skip as u64), buf);
                    piece.damage.append(start, &Damage::read(offset.get(), buf, read));
                }
                Ok(_) => {}
            }
        }
        piece.first = first;
        piece.count = count;
        Ok(())
    }
}

/// What QEMU prints (on a line of its own) when it meets a table that cannot be.
pub fn corrupt(what: core::fmt::Arguments<'_>) -> Error {
    Error::corrupt(alloc::format!(
        "qcow2: Image is corrupt: {what}; further non-fatal corruption events will be suppressed"
    ))
}

/// A number as C's `%#x` prints it: zero has no prefix.
pub struct Hex(pub u64);

impl core::fmt::Display for Hex {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.0 == 0 { f.write_str("0") } else { write!(f, "{:#x}", self.0) }
    }
}
