//! Where a device has data and where holes, asked for in large pieces and remembered.

use alloc::vec::Vec;

use crate::{DeviceId, FileOffset, Result, Run, Source};
use spin::Mutex;

/// The runs of one device. One answer of the host is kept, so that a walk from front to back costs one
/// crossing for every few hundred runs.
pub struct RunMap<'a> {
    source: &'a dyn Source,
    device: DeviceId,
    /// Where the device ends; behind it everything is a hole.
    end: FileOffset,
    known: Mutex<Known>,
}

/// Adjacent runs from `start` on, up to `end`.
#[derive(Default)]
struct Known {
    start: FileOffset,
    end: FileOffset,
    runs: Vec<Run>,
    /// The run that was found last and where it begins: the next is likely to be the one behind it.
    last: (usize, FileOffset),
}

impl Known {
    fn find(&mut self, at: FileOffset) -> Option<Run> {
        if at < self.start || at >= self.end {
            return None;
        }
        let (mut index, mut begin) = if self.last.1 <= at { self.last } else { (0, self.start) };
        loop {
            let run = self.runs.get(index)?;
            let end = begin.saturating_add(run.len);
            if at < end {
                self.last = (index, begin);
                return Some(Run { len: end.saturating_since(at), data: run.data });
            }
            index = index.saturating_add(1);
            begin = end;
        }
    }
}

impl<'a> RunMap<'a> {
    /// Nothing is known yet of the device, which is `len` bytes long.
    pub const fn new(source: &'a dyn Source, device: DeviceId, len: u64) -> Self {
        let known =
            Known { start: FileOffset::ZERO, end: FileOffset::ZERO, runs: Vec::new(), last: (0, FileOffset::ZERO) };
        Self { source, device, end: FileOffset::new(len), known: Mutex::new(known) }
    }

    /// The same of a device that is being written to: nothing of what was known counts.
    pub fn run_now(&self, at: FileOffset) -> Result<Run> {
        *self.known.lock() = Known::default();
        self.run(at)
    }

    /// The run that begins at `at`; never empty.
    pub fn run(&self, at: FileOffset) -> Result<Run> {
        if at >= self.end {
            return Ok(Run { len: FileOffset::MAX.saturating_since(at), data: false });
        }
        let mut known = self.known.lock();
        if let Some(run) = known.find(at) {
            return Ok(run);
        }
        let mut runs = core::mem::take(&mut known.runs);
        runs.clear();
        let left = self.end.saturating_since(at);
        let end = self.source.runs(self.device, at, left, &mut runs)?;
        *known = Known { start: at, end, runs, last: (0, at) };
        // No answer (the file shrank meanwhile): reading will tell.
        Ok(known.find(at).filter(|r| r.len > 0).unwrap_or(Run { len: left, data: true }))
    }
}
