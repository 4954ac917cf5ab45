//! Numbers: those of an input, and those of a generator.

/// The numbers that an input holds, until it ends.
pub struct Numbers<'d> {
    data: &'d [u8],
}

impl<'d> Numbers<'d> {
    pub const fn new(data: &'d [u8]) -> Self {
        Self { data }
    }

    /// The next one, below `end`: of one byte where that is enough, else of three.
    pub fn below(&mut self, end: u64) -> Option<u64> {
        let len = if end <= 256 { 1 } else { 3 };
        let (bytes, rest) = self.data.split_at_checked(len)?;
        self.data = rest;
        Some(bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)) % end.max(1))
    }

    /// The same; 0 where the input has ended.
    pub fn or_zero(&mut self, end: u64) -> u64 {
        self.below(end).unwrap_or(0)
    }
}

/// A small generator: the same seed makes the same numbers.
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(if seed == 0 { 0x9e37_79b9_7f4a_7c15 } else { seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) })
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }
}
