//! Clusters of the file by their numbers.

use core::fmt;
use core::ops::{Add, AddAssign, Range, Sub};

use instar_image::FileOffset;

/// The number of a cluster of the file, or of the data file, counted from its beginning. How many clusters there are, and the
/// numbers of clusters of the disk, are plain numbers.
///
/// Its operators are those of `u64`: a sum that does not fit ends the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ClusterNumber(u64);

impl ClusterNumber {
    /// The first one: the header is in it, and nothing else.
    pub const FIRST: Self = Self(0);

    /// The cluster behind the first `count` ones.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// How many are before it.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one that lies at `offset`, or has a part there.
    pub const fn of(offset: FileOffset, cluster_bits: u32) -> Self {
        Self(offset.get() >> cluster_bits)
    }

    /// The one behind all that have a part before `end`.
    pub const fn behind(end: FileOffset, cluster_bits: u32) -> Self {
        Self(end.get().div_ceil(1 << cluster_bits))
    }

    /// Where it begins.
    pub const fn offset(self, cluster_bits: u32) -> FileOffset {
        FileOffset::new(self.0 << cluster_bits)
    }

    /// The one `count` further, or the last number that there is.
    pub const fn saturating_add(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// How many there are from `first` to here, if it is not behind.
    pub const fn checked_since(self, first: Self) -> Option<u64> {
        self.0.checked_sub(first.0)
    }

    /// The same; 0 if it is behind.
    pub const fn saturating_since(self, first: Self) -> u64 {
        self.0.saturating_sub(first.0)
    }
}

impl Add<u64> for ClusterNumber {
    type Output = Self;

    fn add(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl AddAssign<u64> for ClusterNumber {
    fn add_assign(&mut self, count: u64) {
        self.0 += count;
    }
}

impl Sub<u64> for ClusterNumber {
    type Output = Self;

    fn sub(self, count: u64) -> Self {
        Self(self.0 - count)
    }
}

/// How many there are between two.
impl Sub for ClusterNumber {
    type Output = u64;

    fn sub(self, first: Self) -> u64 {
        self.0 - first.0
    }
}

impl fmt::Display for ClusterNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The clusters that lie in `len` bytes at `offset`, or have a part there.
pub const fn run(offset: FileOffset, len: u64, cluster_bits: u32) -> Range<ClusterNumber> {
    ClusterNumber::of(offset, cluster_bits)..ClusterNumber::behind(offset.saturating_add(len), cluster_bits)
}

/// Those of a range, one after the other.
pub fn each(clusters: Range<ClusterNumber>) -> impl DoubleEndedIterator<Item = ClusterNumber> {
    (clusters.start.0..clusters.end.0).map(ClusterNumber)
}
