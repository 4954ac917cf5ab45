//! Going through a range of a disk, extent by extent.

use core::ops::Range;

use crate::{Extent, Result};

/// What a walk goes through: it says how long it is.
pub trait Stretch {
    /// Length in bytes; not 0.
    fn bytes(&self) -> u64;
}

impl Stretch for Extent {
    fn bytes(&self) -> u64 {
        self.len
    }
}

impl Stretch for (usize, Extent) {
    fn bytes(&self) -> u64 {
        self.1.len
    }
}

/// See [`walk`].
pub struct Walk<F> {
    left: Range<u64>,
    find: F,
}

/// What `find` finds in a range of a disk, ascending and without a gap. It is asked for what begins at a byte, for at most
/// so many bytes, which are never none. An error is the last item.
pub const fn walk<T: Stretch, F: FnMut(u64, u64) -> Result<T>>(range: Range<u64>, find: F) -> Walk<F> {
    Walk { left: range, find }
}

impl<T: Stretch, F: FnMut(u64, u64) -> Result<T>> Iterator for Walk<F> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let Range { start, end } = self.left;
        let max = end.checked_sub(start).filter(|max| *max > 0)?;
        let found = (self.find)(start, max);
        // Whatever it says, the end is reached.
        self.left.start = found.as_ref().map_or(end, |found| start.saturating_add(found.bytes().max(1)));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Place};
    use alloc::vec::Vec;

    fn lens(range: Range<u64>, find: impl Fn(u64) -> Result<u64>) -> Vec<(u64, Result<u64>)> {
        let mut asked = Vec::new();
        let find = |at, max: u64| {
            asked.push(at);
            find(at).map(|len| Extent { at, len: len.min(max), place: Place::Unallocated })
        };
        let found: Vec<_> = walk(range, find).map(|found| found.map(|extent| extent.len)).collect();
        asked.into_iter().zip(found).collect()
    }

    #[test]
    fn extents_follow_one_another() {
        assert_eq!(lens(3..10, Ok), [(3, Ok(3)), (6, Ok(4))]);
        assert_eq!(lens(5..5, |_| Ok(1)), []);
    }

    #[test]
    fn an_error_is_the_last() {
        let broken = || Error::corrupt("broken");
        let find = |at| if at < 2 { Ok(2) } else { Err(broken()) };
        assert_eq!(lens(0..8, find), [(0, Ok(2)), (2, Err(broken()))]);
    }

    #[test]
    fn what_is_empty_does_not_stop_it() {
        assert_eq!(lens(0..3, |_| Ok(0)).len(), 3);
        assert_eq!(lens(u64::MAX - 1..u64::MAX, |_| Ok(u64::MAX)).len(), 1);
    }
}
