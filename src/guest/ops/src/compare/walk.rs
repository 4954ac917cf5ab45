//! The extents of two chains side by side, in ascending order.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use instar_image::chain::Chain;
use instar_image::error::Kind;
use instar_image::machine::display_name;
use instar_image::quirk::told_at_once;
use instar_image::{Error, Machine, Place, Result};
use spin::Mutex;

use crate::copy::files::Files;
use crate::copy::plan::Part;
use crate::stored::{PRESENT, Stored};

/// Bytes that are handed out together, and most of one pair.
const BYTES: u64 = 2 << 20;
/// Most pairs that are handed out together.
const PAIRS: usize = 64;

/// A range to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// First byte.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where each image has it; `None`: it shows zeroes.
    pub sides: [Option<Part>; 2],
}

/// What ends the comparison.
#[derive(Clone, Debug)]
pub enum Event {
    /// `-s`: one of them holds it in another way.
    Status,
    /// The bytes differ from here on.
    Content,
    /// A table cannot be read.
    NoStatus(Error),
    /// Data cannot be read.
    Unreadable(Error),
}

/// What is said where the bytes of an image cannot be read.
pub fn unreadable(chain: &Chain<'_>, at: u64, why: &str) -> Error {
    let name = chain.layers.first().map(|layer| display_name(&layer.name)).unwrap_or_default();
    Error::malformed(format!("Error while reading offset {at} of {name}: {why}"))
}

/// Goes through two disks side by side.
pub struct Walk<'a> {
    chains: &'a [Chain<'a>],
    sizes: [u64; 2],
    strict: bool,
    files: Files<'a>,
    stored: Vec<Stored<'a>>,
    next: Mutex<u64>,
    ended: AtomicBool,
    first: Mutex<Option<(u64, Event)>>,
}

impl<'a> Walk<'a> {
    /// At the beginning of two chains.
    pub fn new(machine: &'a dyn Machine, chains: &'a [Chain<'a>], strict: bool) -> Result<Self> {
        let [one, other] = chains else { return Err(Error::usage("compare needs two images")) };
        let stored =
            if strict { Vec::from([Stored::of(machine, one)?, Stored::of(machine, other)?]) } else { Vec::new() };
        Ok(Self {
            chains,
            sizes: [one.virtual_size(), other.virtual_size()],
            strict,
            files: Files::new(machine.source()),
            stored,
            next: Mutex::new(0),
            ended: AtomicBool::new(false),
            first: Mutex::new(None),
        })
    }

    /// Something was found at byte `at`; what lies behind it need not be looked at. Of events at one place, the first
    /// to be told is the one.
    pub fn found(&self, at: u64, event: Event) {
        let mut first = self.first.lock();
        if first.as_ref().is_none_or(|(before, _)| at < *before) {
            *first = Some((at, event));
        }
        self.ended.store(true, Ordering::Release);
    }

    /// What was found, at the lowest byte.
    pub fn first(&self) -> Option<(u64, Event)> {
        self.first.lock().take()
    }

    /// Something was found.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The next ranges, and the part of the disks that they and what need not be looked at take up. None: the end.
    /// Whoever was given some looks at all of them, so that nothing before an event goes unseen.
    pub fn next(&self) -> (Vec<Pair>, Range<u64>) {
        let mut next = self.next.lock();
        let start = *next;
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        let end = self.sizes[0].max(self.sizes[1]);
        while *next < end && bytes < BYTES && pairs.len() < PAIRS && !self.has_ended() {
            match self.pair(*next, end - *next) {
                Ok((len, pair)) => {
                    bytes += pair.map_or(0, |pair| pair.len);
                    pairs.extend(pair);
                    *next += len;
                }
                Err(event) => self.found(*next, event),
            }
        }
        (pairs, start..*next)
    }

    /// The range at `at`: its length, and the range if it has to be looked at.
    fn pair(&self, at: u64, max: u64) -> core::result::Result<(u64, Option<Pair>), Event> {
        let one = self.side(0, at, max)?;
        let other = self.side(1, at, max)?;
        let mut max = max;
        if let (true, Some(one), Some(other)) = (self.strict, one, other) {
            let (one, one_len) = self.status(one).map_err(Event::NoStatus)?;
            let (other, other_len) = self.status(other).map_err(Event::NoStatus)?;
            if one != other {
                return Err(Event::Status);
            }
            max = max.min(one_len).min(other_len);
        }
        let len = [one, other].iter().flatten().map(|part| part.extent.len).min().unwrap_or(max).min(max);
        let place = |side: Option<Part>| side.map_or(Place::Unallocated, |part| part.extent.place);
        if self.files.same_bytes(place(one), place(other)).map_err(Event::NoStatus)? {
            return Ok((len, None));
        }
        let len = len.min(BYTES);
        let cut = |side: Option<Part>| {
            let part = side.filter(|part| !matches!(part.extent.place, Place::Zero { .. } | Place::Unallocated))?;
            Some(Part { extent: part.extent.slice(part.extent.at, len), ..part })
        };
        Ok((len, Some(Pair { at, len, sides: [cut(one), cut(other)] })))
    }

    /// What one image has at `at`; `None` behind its end.
    fn side(&self, source: usize, at: u64, max: u64) -> core::result::Result<Option<Part>, Event> {
        let size = self.sizes.get(source).copied().unwrap_or_default();
        let Some(chain) = self.chains.get(source).filter(|_| at < size) else { return Ok(None) };
        match chain.extent(at, max.min(size - at)) {
            Ok((depth, extent)) => match chain.readable(depth, extent) {
                Ok(extent) => Ok(Some(Part { source, depth, at, extent, work: true })),
                Err(error) => Err(Event::Unreadable(unreadable(chain, at, &error.message))),
            },
            Err(error) => {
                let name = chain.layers.first().map(|layer| display_name(&layer.name)).unwrap_or_default();
                let failed = Error::malformed(format!("Sector allocation test failed for {name}"));
                let is_told = matches!(error.kind, Kind::Corrupt);
                Err(Event::NoStatus(if is_told { failed.after(error.message) } else { failed }))
            }
        }
    }

    /// How an image holds what begins there, as far as `-s` looks at it: bits of the entry, whether any layer has it, and
    /// whether it goes on to the disk's end; and for how many bytes that is so.
    fn status(&self, part: Part) -> Result<((u16, bool, bool), u64)> {
        let size = self.sizes.get(part.source).copied().unwrap_or_default();
        let layers = self.chains.get(part.source).map_or(&[][..], |chain| &chain.layers);
        let Some(stored) = self.stored.get(part.source) else { return Ok(((0, false, false), u64::MAX)) };
        let entry = stored.entry(part.at, size.saturating_sub(part.at))?;
        let depth = entry.depth as usize;
        let told = told_at_once(layers.get(depth));
        let len = entry.len.min(told - part.at % told);
        // What a backing file is too short for counts as if it were in it.
        let allocated = entry.bits & PRESENT != 0 || depth + 1 < layers.len();
        Ok(((entry.bits & !PRESENT, allocated, part.at.saturating_add(len) >= size), len))
    }
}
