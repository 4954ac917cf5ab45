//! Reading from a medium that is not whole: what can be read is, and what cannot is remembered.

use alloc::vec::Vec;
use core::ops::Range;

use crate::{Error, Kind, Result};

/// Smallest part of a medium that is given up by itself, in bytes.
pub const SECTOR: u64 = 512;
/// Bytes that are tried at once where more could not be read.
const PIECE: usize = 65536;

/// Which bytes of a buffer could not be read.
#[derive(Debug, Default)]
pub struct Damage {
    /// Ascending, not adjacent.
    lost: Vec<Range<usize>>,
    error: Option<Error>,
}

impl Damage {
    /// All is there.
    #[must_use]
    pub const fn none() -> Self {
        Self { lost: Vec::new(), error: None }
    }

    /// Fills `buf` by `read`, which gets the place in it: as a whole, else in pieces, else sector by sector. Zeroes are
    /// put where nothing comes. Sectors are counted from `start` on, which is the place of the buffer's first byte.
    pub fn read(start: u64, buf: &mut [u8], mut read: impl FnMut(usize, &mut [u8]) -> Result<()>) -> Self {
        match read(0, buf) {
            Ok(()) => Self::none(),
            Err(error) => Self::read_after(error, start, buf, read),
        }
    }

    /// The same after it was tried as a whole.
    pub fn read_after(
        error: Error,
        start: u64,
        buf: &mut [u8],
        mut read: impl FnMut(usize, &mut [u8]) -> Result<()>,
    ) -> Self {
        let mut damage = Self { lost: Vec::new(), error: None };
        if !matches!(error.kind, Kind::Io(_)) {
            // It is not the medium that says no.
            buf.fill(0);
            damage.lose(0..buf.len(), error);
            return damage;
        }
        let mut at = 0;
        while at < buf.len() {
            let whole = PIECE - (start.wrapping_add(at as u64) % PIECE as u64) as usize;
            let end = at.saturating_add(whole).min(buf.len());
            let all = at == 0 && end == buf.len();
            let piece = buf.get_mut(at..end).unwrap_or_default();
            if all || read(at, piece).is_err() {
                let mut from = at;
                while from < end {
                    let whole = SECTOR - start.wrapping_add(from as u64) % SECTOR;
                    let next = from.saturating_add(whole as usize).min(end);
                    let sector = buf.get_mut(from..next).unwrap_or_default();
                    if let Err(error) = read(from, sector) {
                        sector.fill(0);
                        damage.lose(from..next, error);
                    }
                    from = next;
                }
            }
            at = end;
        }
        damage
    }

    fn lose(&mut self, range: Range<usize>, error: Error) {
        match self.lost.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.lost.push(range),
        }
        // What lies below may have said what that costs: it is another thing here.
        self.error.get_or_insert(Error { scope: None, ..error });
    }

    /// A range is lost, behind all those before.
    pub fn add(&mut self, range: Range<usize>, error: &Error) {
        self.lose(range, error.clone());
    }

    /// Another buffer's damage, which is part of this one from byte `start` on.
    pub fn append(&mut self, start: usize, other: &Self) {
        for (range, error) in other.lost.iter().zip(other.error.iter().cycle()) {
            self.add(start.saturating_add(range.start)..start.saturating_add(range.end), error);
        }
    }

    /// What is lost, ascending.
    #[must_use]
    pub fn lost(&self) -> &[Range<usize>] {
        &self.lost
    }

    /// Why, if anything is.
    #[must_use]
    pub const fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// How far everything is there that follows byte `at`; fails where one of the first `least` bytes is not.
    pub fn good_until(&self, at: usize, least: usize) -> Result<usize> {
        let next = self.lost.get(self.lost.partition_point(|range| range.end <= at));
        let until = next.map_or(usize::MAX, |range| range.start);
        match &self.error {
            Some(error) if until < at.saturating_add(least) => Err(error.clone()),
            _ => Ok(until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads ones, but not where `bad` has a byte.
    fn damage(start: u64, len: usize, bad: Range<u64>) -> (Damage, Vec<u8>, usize) {
        let mut buf = alloc::vec![9; len];
        let mut reads = 0;
        let damage = Damage::read(start, &mut buf, |at, part| {
            reads += 1;
            let from = start + at as u64;
            if from < bad.end && from + part.len() as u64 > bad.start {
                return Err(Error::new(Kind::Io(5), "Input/output error").losing(7));
            }
            part.fill(1);
            Ok(())
        });
        (damage, buf, reads)
    }

    #[test]
    fn only_the_sectors_that_cannot_be_read_are_lost() {
        let (found, buf, _) = damage(100, 200_000, 70_000..70_001);
        // Byte 70000 is in the sector 69632..70144 of the medium.
        assert_eq!(found.lost(), core::slice::from_ref(&(69_532..70_044)));
        let expected = |i: usize| u8::from(!(69_532..70_044).contains(&i));
        assert!(buf.iter().enumerate().all(|(i, byte)| *byte == expected(i)));
        assert_eq!(found.error().map(|e| e.scope), Some(None));
        assert_eq!(found.good_until(0, 8), Ok(69_532));
        assert!(found.good_until(69_530, 8).is_err());
        assert!(found.good_until(70_043, 8).is_err());
        assert_eq!(found.good_until(70_044, 8), Ok(usize::MAX));
    }

    #[test]
    fn a_whole_medium_costs_one_read() {
        assert_eq!(damage(0, 1 << 20, 0..0).2, 1);
        let (found, _, reads) = damage(0, 1 << 20, 0..u64::MAX);
        assert_eq!(found.lost(), core::slice::from_ref(&(0..1 << 20)));
        assert_eq!(reads, 1 + 16 + 2048);
    }

    #[test]
    fn what_was_refused_is_not_tried_again() {
        let mut reads = 0;
        let found = Damage::read(0, &mut [0; 4096], |_, _| {
            reads += 1;
            Err(Error::new(Kind::Refused, "no"))
        });
        assert_eq!((reads, found.lost().len()), (1, 1));
        assert!(found.good_until(0, 1).is_err());
    }
}
