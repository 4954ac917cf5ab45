//! Places in a device, which are not to be taken for places in a virtual disk.

use core::fmt;
use core::ops::{Add, AddAssign, Div, Rem, Sub};

/// A place in one device: so many bytes from its beginning. Lengths, and offsets in a virtual disk, are plain numbers.
///
/// Its operators are those of `u64`: a sum that does not fit ends the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct FileOffset(u64);

impl FileOffset {
    /// The beginning.
    pub const ZERO: Self = Self(0);
    /// Behind every place that there can be.
    pub const MAX: Self = Self(u64::MAX);
    /// Where the longest file that there can be ends.
    pub const END_MAX: Self = Self(i64::MAX as u64);

    /// The place `bytes` behind the beginning: also the end of a device that is so long.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes before it.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place `len` bytes behind.
    #[must_use]
    pub const fn checked_add(self, len: u64) -> Option<Self> {
        match self.0.checked_add(len) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The same, or the last place that there is.
    #[must_use]
    pub const fn saturating_add(self, len: u64) -> Self {
        Self(self.0.saturating_add(len))
    }

    /// The place `len` bytes before, or the beginning.
    #[must_use]
    pub const fn saturating_sub(self, len: u64) -> Self {
        Self(self.0.saturating_sub(len))
    }

    /// Bytes from `start` to here, if it is not behind.
    #[must_use]
    pub const fn checked_since(self, start: Self) -> Option<u64> {
        self.0.checked_sub(start.0)
    }

    /// The same; 0 if it is behind.
    #[must_use]
    pub const fn saturating_since(self, start: Self) -> u64 {
        self.0.saturating_sub(start.0)
    }

    /// Whether units of so many bytes begin here.
    #[must_use]
    pub const fn is_multiple_of(self, unit: u64) -> bool {
        self.0.is_multiple_of(unit)
    }

    /// The first place from here on at which units of so many bytes begin.
    #[must_use]
    pub const fn next_multiple_of(self, unit: u64) -> Self {
        Self(self.0.next_multiple_of(unit))
    }

    /// The same, if there is one.
    #[must_use]
    pub const fn checked_next_multiple_of(self, unit: u64) -> Option<Self> {
        match self.0.checked_next_multiple_of(unit) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }
}

impl From<u32> for FileOffset {
    fn from(bytes: u32) -> Self {
        Self(u64::from(bytes))
    }
}

impl Add<u64> for FileOffset {
    type Output = Self;

    fn add(self, len: u64) -> Self {
        Self(self.0 + len)
    }
}

impl AddAssign<u64> for FileOffset {
    fn add_assign(&mut self, len: u64) {
        self.0 += len;
    }
}

impl Sub<u64> for FileOffset {
    type Output = Self;

    fn sub(self, len: u64) -> Self {
        Self(self.0 - len)
    }
}

/// Bytes between two places.
impl Sub for FileOffset {
    type Output = u64;

    fn sub(self, start: Self) -> u64 {
        self.0 - start.0
    }
}

/// The number of the unit of so many bytes that it lies in.
impl Div<u64> for FileOffset {
    type Output = u64;

    fn div(self, unit: u64) -> u64 {
        self.0 / unit
    }
}

/// Bytes from the beginning of that unit.
impl Rem<u64> for FileOffset {
    type Output = u64;

    fn rem(self, unit: u64) -> u64 {
        self.0 % unit
    }
}

impl fmt::Display for FileOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::LowerHex for FileOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
