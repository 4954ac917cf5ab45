//! How far it is.

use alloc::collections::BTreeMap;
use core::ops::Range;

use instar_image::Machine;
use spin::Mutex;

use super::steps::Steps;

/// Counts the bytes of the disk that are done, on all workers.
pub struct Progress<'a> {
    machine: &'a dyn Machine,
    total: u64,
    /// Held while the host is told: else one worker would tell of more before another of less, which then is lost.
    state: Mutex<State<'a>>,
}

struct State<'a> {
    done: u64,
    /// What is done behind what is not: first byte and end.
    apart: BTreeMap<u64, u64>,
    /// When to tell, and of what, if it is to be told as the stock tool does.
    steps: Option<Steps<'a>>,
}

impl<'a> Progress<'a> {
    /// Nothing is done yet.
    pub const fn new(machine: &'a dyn Machine, total: u64) -> Self {
        Self::in_steps(machine, total, None)
    }

    /// The same, told in those steps.
    pub const fn in_steps(machine: &'a dyn Machine, total: u64, steps: Option<Steps<'a>>) -> Self {
        Self { machine, total, state: Mutex::new(State { done: 0, apart: BTreeMap::new(), steps }) }
    }

    /// `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        let state = &mut *self.state.lock();
        state.done = state.done.saturating_add(bytes);
        match &mut state.steps {
            Some(steps) => steps.tell(self.machine, state.done),
            None => self.machine.progress(state.done.min(self.total), self.total),
        }
    }

    /// A range of the disk is done. In steps nothing is told before all in front of it is done too.
    pub fn add_range(&self, range: Range<u64>) {
        let state = &mut *self.state.lock();
        let Some(steps) = &mut state.steps else {
            state.done = state.done.saturating_add(range.end.saturating_sub(range.start));
            return self.machine.progress(state.done.min(self.total), self.total);
        };
        state.apart.insert(range.start, range.end);
        while let Some(end) = state.apart.remove(&state.done) {
            state.done = end;
        }
        steps.tell(self.machine, state.done);
    }

    /// It ends at byte `at` of the disk, and all before is done.
    pub fn end_at(&self, at: u64) {
        if let Some(steps) = &mut self.state.lock().steps {
            steps.tell(self.machine, at);
        }
    }

    /// All that was counted is done. Where nothing was, nothing is told.
    pub fn end_counted(&self) {
        let done = self.state.lock().done;
        self.finish(done > 0 && done < self.total);
    }

    /// All is done, what was empty and never counted too.
    pub fn end(&self) {
        self.finish(self.total > 0);
    }

    fn finish(&self, tell: bool) {
        match &mut self.state.lock().steps {
            Some(steps) => steps.tell(self.machine, u64::MAX),
            None if tell => self.machine.progress(self.total, self.total),
            None => {}
        }
    }
}
