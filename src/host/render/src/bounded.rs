//! Text of unknown length on its way to a user: measured before any of it is shown, and never all in memory.

use std::fmt::{self, Write};
use std::time::Instant;

/// Text that is kept while it is measured, and what is written at once, in bytes.
const PIECE: usize = 1 << 20;
/// How often the clock is looked at, in bytes of text.
const TICK: u64 = 64 << 10;

/// Why a text is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It is longer than it may be.
    Long,
    /// It took longer than it may.
    Late,
}

/// Measures a text. A short one is kept.
#[derive(Debug)]
pub struct Bounded {
    text: String,
    len: u64,
    max: u64,
    until: Option<Instant>,
    over: Option<Over>,
}

impl Bounded {
    /// For at most `max` bytes, before `until`.
    #[must_use]
    pub const fn new(max: u64, until: Option<Instant>) -> Self {
        Self { text: String::new(), len: 0, max, until, over: None }
    }

    /// The text; `None` if it is too long to be kept.
    ///
    /// # Errors
    /// The bound that it met.
    pub fn finish(self) -> Result<Option<String>, Over> {
        let whole = self.len == self.text.len() as u64;
        self.over.map_or(Ok(whole.then_some(self.text)), Err)
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let before = self.len;
        self.len = self.len.saturating_add(text.len() as u64);
        if self.len > self.max {
            self.over.get_or_insert(Over::Long);
        } else if before / TICK != self.len / TICK && self.until.is_some_and(|until| Instant::now() > until) {
            self.over.get_or_insert(Over::Late);
        }
        if self.over.is_some() {
            return Err(fmt::Error);
        }
        if self.len <= PIECE as u64 {
            self.text.push_str(text);
        }
        Ok(())
    }
}

/// Hands a text on in pieces.
#[derive(Debug)]
pub struct Pieces<F: FnMut(&str) -> bool> {
    text: String,
    take: F,
}

impl<F: FnMut(&str) -> bool> Pieces<F> {
    /// To `take`, which says whether it goes on.
    pub const fn new(take: F) -> Self {
        Self { text: String::new(), take }
    }

    /// The last piece.
    ///
    /// # Errors
    /// It was not taken.
    pub fn finish(mut self) -> fmt::Result {
        self.hand_on()
    }

    fn hand_on(&mut self) -> fmt::Result {
        let taken = (self.take)(&self.text);
        self.text.clear();
        if taken { Ok(()) } else { Err(fmt::Error) }
    }
}

impl<F: FnMut(&str) -> bool> Write for Pieces<F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.push_str(text);
        if self.text.len() >= PIECE { self.hand_on() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_kept_and_long_ones_are_measured() {
        let finish = |len: usize, max: u64| {
            let mut out = Bounded::new(max, None);
            let written = (0..len / 8).try_for_each(|_| out.write_str("12345678"));
            assert_eq!(written.is_err(), len as u64 > max);
            out.finish()
        };
        assert_eq!(finish(16, 16), Ok(Some("1234567812345678".into())));
        assert_eq!(finish(PIECE, u64::MAX).map(|text| text.map(|t| t.len())), Ok(Some(PIECE)));
        assert_eq!(finish(PIECE + 8, u64::MAX), Ok(None));
        assert_eq!(finish(16, 15), Err(Over::Long));
    }

    #[test]
    fn it_ends_in_time() {
        let mut out = Bounded::new(u64::MAX, Some(Instant::now()));
        assert!((0..TICK).any(|_| out.write_str("12345678").is_err()));
        assert_eq!(out.finish(), Err(Over::Late));
    }

    #[test]
    fn pieces_are_the_whole() {
        let mut got = Vec::new();
        let mut out = Pieces::new(|piece: &str| {
            got.push(piece.len());
            true
        });
        for _ in 0..3 * PIECE / 8 + 1 {
            out.write_str("12345678").expect("all is taken");
        }
        out.finish().expect("all is taken");
        assert_eq!(got, [PIECE, PIECE, PIECE, 8]);
        let mut out = Pieces::new(|_: &str| false);
        assert!(out.write_str("x").is_ok() && out.finish().is_err());
    }
}
