//! Which blocks move when an image gives up some: those that are kept end up in the lowest of all places, so that what
//! follows them can be cut off.

use alloc::vec::Vec;

/// See the module. Places are numbers in a unit of the format's own; no two blocks share one.
pub struct Packing {
    /// Blocks behind this place move.
    last: u32,
    /// Places that are free, the highest first.
    holes: Vec<u32>,
}

impl Packing {
    /// `kept`: where the blocks are that stay part of the disk; `free`: where the others were.
    #[must_use]
    pub fn new(kept: &[u32], mut free: Vec<u32>) -> Self {
        let mut all = [kept, &free].concat();
        let last = match kept.len().checked_sub(1) {
            Some(index) if index < all.len() => *all.select_nth_unstable(index).1,
            _ => 0,
        };
        free.retain(|place| *place <= last);
        free.sort_unstable_by(|a, b| b.cmp(a));
        Self { last, holes: free }
    }

    /// Where the block at `place` goes; `None`: it stays.
    pub fn place_for(&mut self, place: u32) -> Option<u32> {
        if place > self.last { self.holes.pop() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_blocks_fill_the_holes() {
        let kept = [9, 2, 7, 1];
        let mut packing = Packing::new(&kept, Vec::from([8, 3, 4]));
        assert_eq!(kept.map(|place| packing.place_for(place)), [Some(3), None, Some(4), None]);
    }

    #[test]
    fn nothing_moves_without_need() {
        let mut packing = Packing::new(&[1, 2], Vec::from([3]));
        assert_eq!([1, 2].map(|place| packing.place_for(place)), [None, None]);
        assert!(Packing::new(&[], Vec::from([3])).holes.is_empty());
    }
}
