//! Finite state entropy, the coder of LZFSE's blocks.

use alloc::vec::Vec;

use super::SYMBOLS;

/// A block's bits: they are read from the end of its bytes to their beginning.
pub struct Bits<'a> {
    bytes: &'a [u8],
    /// Bits that are left.
    left: usize,
}

impl<'a> Bits<'a> {
    /// All of `bytes` but the uppermost `unused` bits of the last one.
    pub fn new(bytes: &'a [u8], unused: u32) -> Option<Self> {
        let left = (bytes.len() * 8).checked_sub(unused as usize)?;
        Some(Self { bytes, left })
    }

    /// The next `count` bits, at most 32.
    pub fn take(&mut self, count: u32) -> Option<u32> {
        self.left = self.left.checked_sub(count as usize)?;
        let first = self.left / 8;
        let mut word = [0; 8];
        let held = self.bytes.get(first..self.bytes.len().min(first + 8))?;
        word.get_mut(..held.len())?.copy_from_slice(held);
        Some((u64::from_le_bytes(word) >> (self.left % 8) & ((1 << count) - 1)) as u32)
    }
}

#[derive(Clone, Copy, Default)]
struct Entry {
    symbol: u16,
    bits: u8,
    delta: i32,
}

/// From states to symbols and next states.
pub struct Table(Vec<Entry>);

impl Table {
    /// For symbols of those frequencies, which are at most `states` together.
    pub fn new(frequencies: &[u16], states: usize) -> Option<Self> {
        let mut entries = Vec::with_capacity(states);
        for (symbol, frequency) in frequencies.iter().enumerate().filter(|(_, f)| **f > 0) {
            let f = usize::from(*frequency);
            if entries.len() + f > states {
                return None;
            }
            let shift = states.ilog2() - f.ilog2();
            let long = ((2 * states) >> shift) - f;
            for i in 0..f {
                let (bits, delta) = if i < long {
                    (shift, (((f + i) << shift) - states) as i32)
                } else {
                    (shift - 1, ((i - long) << (shift - 1)) as i32)
                };
                entries.push(Entry { symbol: symbol as u16, bits: bits as u8, delta });
            }
        }
        entries.resize(states, Entry::default());
        Some(Self(entries))
    }

    /// The symbol of `state`; goes on to the next.
    pub fn next(&self, state: &mut usize, bits: &mut Bits<'_>) -> Option<u16> {
        let entry = self.0.get(*state)?;
        *state = usize::try_from(entry.delta).ok()? + bits.take(u32::from(entry.bits))? as usize;
        Some(entry.symbol)
    }
}

/// A table whose symbols stand for ranges of numbers; further bits tell which.
pub struct Values {
    table: Table,
    /// For each symbol: the least number, and how many bits are added to it.
    ranges: Vec<(usize, u8)>,
}

impl Values {
    /// `extra`: for each symbol, the number of further bits. The ranges lie one behind another from 0 on.
    pub fn new(frequencies: &[u16], states: usize, extra: &[u8]) -> Option<Self> {
        let mut next = 0;
        let ranges = extra.iter().map(|bits| {
            let first = next;
            next += 1 << bits;
            (first, *bits)
        });
        Some(Self { ranges: ranges.collect(), table: Table::new(frequencies, states)? })
    }

    /// The number that comes next.
    pub fn next(&self, state: &mut usize, bits: &mut Bits<'_>) -> Option<usize> {
        let symbol = self.table.next(state, bits)?;
        let (first, extra) = *self.ranges.get(usize::from(symbol))?;
        Some(first + bits.take(u32::from(extra))? as usize)
    }
}

/// The frequencies in a compressed header: small ones take few bits. No bytes at all: all are zero.
pub fn unpack_frequencies(bytes: &[u8]) -> Option<[u16; SYMBOLS]> {
    let mut found = [0; SYMBOLS];
    if bytes.is_empty() {
        return Some(found);
    }
    let mut rest = bytes.iter();
    let (mut held, mut count) = (0u32, 0u32);
    for slot in &mut found {
        while let (true, Some(byte)) = (count <= 24, rest.as_slice().first()) {
            held |= u32::from(*byte) << count;
            count += 8;
            rest.next();
        }
        let (value, used) = match held & 31 {
            bits if bits & 1 == 0 => (bits >> 1 & 1, 2),
            bits if bits & 3 == 1 => (2 + (bits >> 2 & 1), 3),
            bits if bits & 7 == 3 => (4 + (bits >> 3 & 3), 5),
            bits if bits & 15 == 7 => (8 + (held >> 4 & 15), 8),
            _ => (24 + (held >> 4 & 0x3ff), 14),
        };
        count = count.checked_sub(used)?;
        held >>= used;
        *slot = value as u16;
    }
    (count < 8 && rest.as_slice().is_empty()).then_some(found)
}
