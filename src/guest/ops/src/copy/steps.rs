//! Where the stock tool tells how far it is: it goes through the disk in pieces, as its drivers tell of it, and tells after
//! each of those that it counts. Only for `-p`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::quirk::told_at_once;
use instar_image::walk::walk;
use instar_image::{Machine, Place, Result};

use crate::stored::{self, Stored};

/// Parts of an image that are remembered.
const RUNS_MAX: usize = 1 << 16;
/// Most bytes that the stock tool reads at once.
const BUFFER: u64 = 2 << 20;

/// A piece of the disk: its end, and what it counts.
type Piece = (u64, u64);

/// The pieces that count, in order.
pub struct Steps<'a> {
    next: Box<dyn FnMut() -> Option<Piece> + Send + 'a>,
    waiting: Option<Piece>,
    told: u64,
    total: u64,
}

impl<'a> Steps<'a> {
    /// `walk` begins at the beginning and goes on to the end; gone through once, it says how much there is to tell of.
    fn counted<W: FnMut() -> Option<Piece> + Send + 'a>(walk: impl Fn() -> Result<W>) -> Result<Self> {
        let (mut ahead, mut total) = (walk()?, 0u64);
        while let Some((_, counts)) = ahead() {
            total = total.saturating_add(counts);
        }
        Ok(Self::new(total, walk()?))
    }

    fn new(total: u64, walk: impl FnMut() -> Option<Piece> + Send + 'a) -> Self {
        let mut next: Box<dyn FnMut() -> Option<Piece> + Send + 'a> = Box::new(walk);
        Self { waiting: next(), next, told: 0, total }
    }

    /// Of a conversion: all that is to be written. `sparse`: zeroes are not; `unit`: of what is compressed; `own`: only what
    /// the upper image holds.
    pub fn of_conversion(
        machine: &'a dyn Machine,
        chains: &'a [Chain<'a>],
        sparse: bool,
        unit: Option<u64>,
        own: bool,
    ) -> Result<Self> {
        Self::counted(|| {
            let mut walk = Conversion::new(machine, chains, sparse, unit, own)?;
            Ok(move || walk.piece())
        })
    }

    /// Of a comparison: everything.
    pub fn of_comparison(machine: &'a dyn Machine, chains: &'a [Chain<'a>]) -> Result<Self> {
        let disks = chains.iter().map(|chain| Disk::new(machine, chain)).collect::<Result<Vec<_>>>()?;
        let total = disks.iter().map(Disk::size).max().unwrap_or(0);
        let mut at = 0;
        Ok(Self::new(total, move || {
            let len = pair(&disks, at)?;
            at += len;
            Some((at, len))
        }))
    }

    /// Of a rebase: a piece is what the image leaves to its backing file, and each counts the same, however small.
    pub fn of_rebase(chain: &'a Chain<'a>) -> Self {
        let size = chain.virtual_size();
        let own = move |from: u64| {
            let found = walk(from..size, |at, max| chain.extent_above(1, at, max).map(|(_, extent)| extent));
            found.map_while(Result::ok)
        };
        // As it is now: what is copied meanwhile shows at once. Of an image in very many parts the rest is looked at later.
        let (mut runs, mut end) = (Vec::new(), 0);
        for extent in own(0) {
            end = extent.end();
            if extent.place == Place::Unallocated {
                runs.push((extent.at, end));
            }
            if runs.len() >= RUNS_MAX {
                break;
            }
        }
        let later =
            own(end).filter(|extent| extent.place == Place::Unallocated).map(|extent| (extent.at, extent.end()));
        let pieces = |(start, end): (u64, u64)| {
            (1..=(end - start).div_ceil(BUFFER)).map(move |piece| (start.saturating_add(piece * BUFFER)).min(end))
        };
        let mut left = runs.into_iter().chain(later).flat_map(pieces);
        Self::new(size.div_ceil(BUFFER).max(1), move || left.next().map(|end| (end, 1)))
    }

    /// Tells of all pieces that end at byte `at` of the disk or before.
    pub fn tell(&mut self, machine: &dyn Machine, at: u64) {
        while let Some((_, counts)) = self.waiting.filter(|(end, _)| *end <= at) {
            self.waiting = (self.next)();
            self.told = self.told.saturating_add(counts);
            if counts > 0 {
                machine.progress(self.told.min(self.total), self.total);
            }
        }
    }
}

/// A disk as the stock tool's drivers tell of it.
struct Disk<'a> {
    chain: &'a Chain<'a>,
    stored: Stored<'a>,
}

impl<'a> Disk<'a> {
    fn new(machine: &'a dyn Machine, chain: &'a Chain<'a>) -> Result<Self> {
        Ok(Self { chain, stored: Stored::of(machine, chain)? })
    }

    fn size(&self) -> u64 {
        self.chain.virtual_size()
    }

    /// What begins at byte `at`, as far as it is told of at once: its bits, how long it is, and the layer that it is in.
    fn status(&self, at: u64) -> Option<(u16, u64, usize)> {
        let entry = self.stored.entry(at, self.size() - at).ok()?;
        let depth = entry.depth as usize;
        let told = told_at_once(self.chain.layers.get(depth));
        Some((entry.bits, entry.len.min(told - at % told).max(1), depth))
    }
}

struct Conversion<'a> {
    /// The sources, and where each begins and ends.
    disks: Vec<(u64, u64, u64, Disk<'a>)>,
    sparse: bool,
    unit: Option<u64>,
    own: bool,
    at: u64,
    /// Where what begins there ends, and whether it is to be read; whether it is zeroes.
    run: (u64, bool, bool),
}

impl<'a> Conversion<'a> {
    fn new(
        machine: &'a dyn Machine,
        chains: &'a [Chain<'a>],
        sparse: bool,
        unit: Option<u64>,
        own: bool,
    ) -> Result<Self> {
        let (mut disks, mut start) = (Vec::new(), 0u64);
        for chain in chains {
            let end = start.saturating_add(chain.virtual_size());
            let top = chain.layers.first();
            let cluster = top.map(|layer| layer.image.describe()).transpose()?.and_then(|told| told.cluster_size);
            disks.push((start, end, cluster.unwrap_or(1).max(1), Disk::new(machine, chain)?));
            start = end;
        }
        Ok(Self { disks, sparse, unit, own, at: 0, run: (0, false, false) })
    }

    fn piece(&mut self) -> Option<Piece> {
        let at = self.at;
        if self.run.0 <= at {
            let (start, _, cluster, disk) = self.disks.iter().find(|(start, end, ..)| (*start..*end).contains(&at))?;
            let inside = at - start;
            let (bits, len, depth) = disk.status(inside)?;
            let tail = (inside + len) % cluster;
            let len = if len > tail { len - tail } else { len };
            let shown = !(self.own && depth > 0);
            let is_zero = bits & stored::ZERO != 0;
            self.run = (at + len, shown && !is_zero && bits & stored::DATA != 0, shown && is_zero);
        }
        let (end, mut is_data, is_zero) = self.run;
        let mut len = end - at;
        if is_data || (is_zero && !self.sparse) {
            len = len.min(self.unit.unwrap_or(BUFFER));
        }
        if let Some(unit) = self.unit {
            if len < unit {
                let whole = self.disks.last().map_or(end, |(_, end, ..)| *end);
                (len, is_data) = (unit.min(whole - at), true);
            } else {
                len -= len % unit;
            }
        }
        self.at = at + len;
        Some((self.at, if is_data || (is_zero && !self.sparse) { len } else { 0 }))
    }
}

/// How many bytes from `at` on the stock tool compares at once.
fn pair(disks: &[Disk<'_>], at: u64) -> Option<u64> {
    let there = disks.iter().filter(|disk| at < disk.size());
    let told: Vec<_> = there.map(|disk| disk.status(at).map(|status| (disk, status))).collect::<Option<_>>()?;
    let len = told.iter().map(|(_, (_, len, _))| *len).min()?;
    let is_zero = told.iter().all(|(_, (bits, ..))| bits & stored::ZERO != 0);
    // What a backing file is too short for counts as if it were in it.
    let is_there = |(disk, (bits, _, depth)): &(&Disk<'_>, (u16, u64, usize))| {
        bits & stored::PRESENT != 0 || depth + 1 < disk.chain.layers.len()
    };
    let is_nowhere = !told.iter().any(is_there);
    Some(if is_zero || is_nowhere { len } else { len.min(BUFFER) })
}
