//! What could not be read (`--salvage`): zeroes stand for it, and the user is told.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::{max, min};

use instar_image::damage::SECTOR;
use instar_image::machine::SAY_MAX;
use instar_image::{Error, Kind, Machine, Result};
use spin::Mutex;

/// Ranges that are remembered, some hundred bytes each; of more, only how much they are.
const RANGES_MAX: usize = 8192;
/// Lines that tell of single sectors, as the stock tool tells of all. A broken table can describe billions.
const LINES_MAX: usize = 8192;

/// What is known of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Not where it is.
    Place,
    /// That, but its bytes cannot be had.
    Bytes,
}

#[derive(Debug, PartialEq, Eq)]
struct Lost {
    end: u64,
    cause: Cause,
    why: String,
}

/// All that was lost, by source and byte of the source's disk.
#[derive(Default)]
pub struct Losses {
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    ranges: BTreeMap<(usize, u64), Lost>,
    /// What the stock tool says by itself of a source's tables.
    damaged: BTreeMap<usize, String>,
    /// Ranges and bytes that are not remembered.
    further: (u64, u64),
}

/// What is said of a failure to read.
pub fn words(error: &Error) -> &str {
    // Whatever is wrong with a table or with compressed data, qemu-img calls it an input/output error.
    if matches!(error.kind, Kind::Corrupt) { "Input/output error" } else { &error.message }
}

impl Losses {
    /// So many bytes from byte `at` of the source on are lost.
    pub fn add(&self, source: usize, at: u64, len: u64, cause: Cause, error: &Error) {
        let mut found = self.found.lock();
        if matches!(error.kind, Kind::Corrupt) && cause == Cause::Place {
            found.damaged.entry(source).or_insert_with(|| error.message.clone());
        }
        found.add(source, at, Lost { end: at.saturating_add(len), cause, why: words(error).to_string() });
    }

    /// Tells the user, as program `name`.
    pub fn tell(&self, machine: &dyn Machine, name: &str, quiet: bool) -> Result<()> {
        let found = self.found.lock();
        let mut teller = Teller { machine, text: String::new() };
        for text in found.damaged.values() {
            teller.line(&format!("{text}\n"))?;
        }
        if !quiet {
            found.tell(&mut |text| teller.line(&format!("{name}: warning: {text}\n")))?;
        }
        teller.end()
    }
}

impl Found {
    fn add(&mut self, source: usize, mut at: u64, mut lost: Lost) {
        // What was planned twice, or is adjacent, is one.
        let joins = |there: &Lost, lost: &Lost| there.cause == lost.cause && there.why == lost.why;
        if let Some((key, before)) = self.ranges.range((source, 0)..=(source, at)).next_back()
            && before.end >= at
            && joins(before, &lost)
        {
            (at, lost.end) = (key.1, max(before.end, lost.end));
        }
        let behind = self.ranges.range((source, at)..=(source, lost.end)).map(|(key, _)| *key);
        for key in behind.collect::<Vec<_>>() {
            if let Entry::Occupied(there) = self.ranges.entry(key)
                && joins(there.get(), &lost)
            {
                lost.end = max(lost.end, there.remove().end);
            }
        }
        if self.ranges.len() >= RANGES_MAX && !self.ranges.contains_key(&(source, at)) {
            self.further = (self.further.0 + 1, self.further.1.saturating_add(lost.end - at));
            return;
        }
        self.ranges.insert((source, at), lost);
    }

    fn tell(&self, say: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let mut lines = 0;
        for ((_, start), Lost { end, cause, why }) in &self.ranges {
            let mut at = *start;
            while at < *end && lines < LINES_MAX {
                if *cause == Cause::Place {
                    say(&format!("error while reading block status at offset {at}: {why}"))?;
                    lines += 1;
                }
                say(&format!("error while reading offset {at}: {why}"))?;
                lines += 1;
                at = min(at - at % SECTOR + SECTOR, *end);
            }
            if at < *end {
                say(&format!("error while reading offset {at} and what follows, {} bytes: {why}", end - at))?;
            }
        }
        match self.further {
            (0, _) => Ok(()),
            (places, bytes) => say(&format!("error while reading {places} further places, {bytes} bytes")),
        }
    }
}

/// Says many lines in few crossings.
struct Teller<'a> {
    machine: &'a dyn Machine,
    text: String,
}

impl Teller<'_> {
    fn line(&mut self, line: &str) -> Result<()> {
        if self.text.len() + line.len() > SAY_MAX {
            self.end()?;
        }
        self.text.push_str(line);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        self.machine.say(&core::mem::take(&mut self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(losses: &Losses) -> Vec<String> {
        let mut lines = Vec::new();
        let found = losses.found.lock();
        let mut keep = |line: &str| {
            lines.push(line.to_string());
            Ok(())
        };
        found.tell(&mut keep).expect("nobody objects");
        lines
    }

    fn io() -> Error {
        Error::new(Kind::Io(5), "Input/output error")
    }

    #[test]
    fn every_sector_is_told_once() {
        let losses = Losses::default();
        losses.add(0, 1024, 1024, Cause::Bytes, &io());
        losses.add(0, 0, 512, Cause::Bytes, &io());
        losses.add(0, 512, 1024, Cause::Bytes, &io());
        let expected: Vec<String> =
            (0..4).map(|i| format!("error while reading offset {}: Input/output error", i * 512)).collect();
        assert_eq!(told(&losses), expected);
    }

    #[test]
    fn what_has_no_place_is_told_as_such() {
        let losses = Losses::default();
        losses.add(1, 512, 512, Cause::Place, &Error::corrupt("qcow2: Image is corrupt: x"));
        losses.add(0, 512, 100, Cause::Place, &Error::malformed("Invalid argument"));
        let lines = [
            "error while reading block status at offset 512: Invalid argument",
            "error while reading offset 512: Invalid argument",
            "error while reading block status at offset 512: Input/output error",
            "error while reading offset 512: Input/output error",
        ];
        assert_eq!(told(&losses), lines);
    }

    #[test]
    fn what_is_told_is_bounded() {
        let losses = Losses::default();
        losses.add(0, 0, 1 << 50, Cause::Place, &io());
        for i in 0..1_000_000 {
            losses.add(1, i * 1024, 512, Cause::Bytes, &io());
        }
        let lines = told(&losses);
        assert!(lines.len() < 3 * RANGES_MAX, "{}", lines.len());
        let rest = (1u64 << 50) - LINES_MAX as u64 / 2 * 512;
        let follows = format!("and what follows, {rest} bytes: Input/output error");
        assert!(lines.iter().any(|line| line.ends_with(&follows)));
        let (places, bytes) = (1_000_001 - RANGES_MAX, (1_000_001 - RANGES_MAX) * 512);
        assert_eq!(lines.last(), Some(&format!("error while reading {places} further places, {bytes} bytes")));
    }
}
