//! Looking at ranges: are they the same?

use alloc::vec;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::{FileOffset, Machine, Place, RangePair, Result};

use super::walk::{Event, Pair, Walk, unreadable};
use crate::copy::Disks;
use crate::copy::fill::{Area, Filler};

/// Differences are told by sectors of so many bytes.
const SECTOR: u64 = 512;
/// A place behind the end of every device: zeroes.
const NOTHING: FileOffset = FileOffset::new(1 << 62);

/// One worker's buffers.
pub struct Judge<'a> {
    machine: &'a dyn Machine,
    chains: &'a [Chain<'a>],
    walk: &'a Walk<'a>,
    filler: Filler<'a>,
    bufs: [Vec<u8>; 2],
}

impl<'a> Judge<'a> {
    /// Nothing is allocated yet.
    pub fn new(machine: &'a dyn Machine, chains: &'a [Chain<'a>], walk: &'a Walk<'a>) -> Self {
        let filler = Filler::new(Disks { sources: chains, target: None }, machine.source(), None);
        Self { machine, chains, walk, filler, bufs: [Vec::new(), Vec::new()] }
    }

    /// Looks at all of them, and tells the walk what it finds.
    pub fn look(&mut self, pairs: &[Pair]) {
        let hosts: Vec<(&Pair, RangePair)> = pairs.iter().filter_map(|pair| Some((pair, plain(pair)?))).collect();
        let ranges: Vec<RangePair> = hosts.iter().map(|(_, range)| *range).collect();
        let mut equal = vec![0; ranges.len()];
        match self.machine.equal_prefixes(&ranges, &mut equal) {
            Ok(()) => {
                for ((pair, _), equal) in hosts.iter().zip(equal).filter(|((pair, _), equal)| *equal < pair.len) {
                    self.walk.found(pair.at + equal / SECTOR * SECTOR, Event::Content);
                }
            }
            // Which side, and where: one after the other.
            Err(_) => hosts.iter().for_each(|(pair, _)| self.read(pair)),
        }
        for pair in pairs.iter().filter(|pair| plain(pair).is_none()) {
            self.read(pair);
        }
    }

    /// Reads both and compares.
    fn read(&mut self, pair: &Pair) {
        let len = pair.len as usize;
        for (index, (side, buf)) in pair.sides.iter().zip(&mut self.bufs).enumerate() {
            if buf.len() < len {
                buf.resize(len, 0);
            }
            let buf = buf.get_mut(..len).unwrap_or_default();
            let read: Result<()> = match side {
                Some(part) => {
                    self.filler.fill_all(&mut [Area { parts: core::slice::from_ref(part), base: pair.at, buf }])
                }
                None => {
                    buf.fill(0);
                    Ok(())
                }
            };
            if read.is_err() {
                let Some(chain) = self.chains.get(index) else { return };
                let error = unreadable(chain, pair.at, "Input/output error");
                return self.walk.found(pair.at, Event::Unreadable(error));
            }
        }
        let [one, other] = [0, 1].map(|i: usize| self.bufs.get(i).and_then(|buf| buf.get(..len)).unwrap_or_default());
        if one != other {
            let sectors = one.chunks(SECTOR as usize).zip(other.chunks(SECTOR as usize));
            let same = sectors.take_while(|(a, b)| a == b).count() as u64;
            self.walk.found(pair.at + same * SECTOR, Event::Content);
        }
    }
}

/// What the host can compare: both are plain bytes, or one of them is and the other zeroes.
fn plain(pair: &Pair) -> Option<RangePair> {
    let place = |index: usize| match pair.sides.get(index).copied().flatten().map(|part| part.extent.place) {
        Some(Place::Data { device, offset }) => Some(Some((device, offset))),
        Some(_) => None,
        None => Some(None),
    };
    let (a, b) = match (place(0)?, place(1)?) {
        (Some(one), Some(other)) => (one, other),
        (Some(one), None) => (one, (one.0, NOTHING)),
        (None, Some(other)) => ((other.0, NOTHING), other),
        (None, None) => return None,
    };
    Some(RangePair { a, b, len: pair.len })
}
