//! Many requests under way: what a slow device makes one wait for is carried out by several threads side by side.
//!
//! A worker hands in a batch of pieces, takes part in it, and goes on when all of it is done: so it gets done where no
//! thread can be had, too. The threads begin with the first batch that is handed in. Each has one piece at a time, which is
//! what bounds the bytes under way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use super::check::Checked;
use super::exec::{Outcome, failed};

/// Most threads besides the workers': twice the requests that the stock tool has under way.
pub const THREADS_MAX: usize = 32;

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The batches that are under way, and the threads that help.
#[derive(Debug)]
pub struct Depth<'m> {
    batches: Mutex<Batches<'m>>,
    handed_in: Condvar,
    /// How many threads should be there.
    wanted: AtomicUsize,
    /// Who starts them: a worker's thread cannot.
    starter: OnceLock<Thread>,
    /// The threads' numbers, as the watchdog sees them: 0 before one begins, -1 when it is over.
    pub threads: [AtomicI32; THREADS_MAX],
}

#[derive(Debug, Default)]
struct Batches<'m> {
    waiting: VecDeque<Arc<Batch<'m>>>,
    closed: bool,
}

impl Default for Depth<'_> {
    fn default() -> Self {
        Self {
            batches: Mutex::default(),
            handed_in: Condvar::new(),
            wanted: AtomicUsize::new(0),
            starter: OnceLock::new(),
            threads: std::array::from_fn(|_| AtomicI32::new(0)),
        }
    }
}

impl<'m> Depth<'m> {
    /// From now on that thread is woken when threads are wanted.
    pub fn started_by(&self, starter: Thread) {
        // Said twice it stays the first.
        let _ = self.starter.set(starter);
    }

    /// How many threads should have been started.
    pub fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Acquire)
    }

    /// Makes a batch known to all threads.
    pub fn hand_in(&self, batch: &Arc<Batch<'m>>) {
        let helpers = batch.pieces.len().saturating_sub(1).min(THREADS_MAX);
        held(&self.batches).waiting.push_back(Arc::clone(batch));
        if self.wanted.fetch_max(helpers, Ordering::AcqRel) < helpers
            && let Some(starter) = self.starter.get()
        {
            starter.unpark();
        }
        self.handed_in.notify_all();
    }

    /// Forgets a batch in which nothing is to be done any more.
    pub fn take_back(&self, batch: &Arc<Batch<'m>>) {
        held(&self.batches).waiting.retain(|other| !Arc::ptr_eq(other, batch));
    }

    /// A batch in which there is something to be done; waits for it. `None`: there will be none.
    pub fn next(&self) -> Option<Arc<Batch<'m>>> {
        let mut batches = held(&self.batches);
        loop {
            while batches.waiting.front().is_some_and(|batch| batch.is_handed_out()) {
                batches.waiting.pop_front();
            }
            if let Some(batch) = batches.waiting.front() {
                return Some(Arc::clone(batch));
            }
            if batches.closed {
                return None;
            }
            batches = self.handed_in.wait(batches).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No more batches will be handed in.
    pub fn close(&self) {
        held(&self.batches).closed = true;
        self.handed_in.notify_all();
    }
}

/// Pieces that may be carried out in any order.
#[derive(Debug)]
pub struct Batch<'m> {
    /// What is to be done.
    pub pieces: Vec<Checked<'m>>,
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Debug)]
struct State {
    next: usize,
    running: usize,
    outcomes: Vec<Option<Outcome>>,
}

impl<'m> Batch<'m> {
    /// A batch of which nothing is done.
    pub fn new(pieces: Vec<Checked<'m>>) -> Arc<Self> {
        let outcomes = pieces.iter().map(|_| None).collect();
        let state = Mutex::new(State { next: 0, running: 0, outcomes });
        Arc::new(Self { pieces, state, idle: Condvar::new() })
    }

    fn is_handed_out(&self) -> bool {
        held(&self.state).next >= self.pieces.len()
    }

    /// The next piece; none, too, if the run is over.
    pub fn claim(&self, over: &AtomicBool) -> Option<Claim<'_, 'm>> {
        let mut state = held(&self.state);
        let number = state.next;
        if number >= self.pieces.len() {
            return None;
        }
        if over.load(Ordering::Relaxed) {
            state.next = self.pieces.len();
            return None;
        }
        (state.next, state.running) = (number + 1, state.running + 1);
        Some(Claim { batch: self, number, outcome: None })
    }

    /// Waits until nobody is at work, when all was handed out. `None`: that piece was not begun.
    pub fn outcomes(&self) -> Vec<Option<Outcome>> {
        let mut state = held(&self.state);
        while state.running > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut state.outcomes)
    }
}

/// A piece that somebody is at work on.
pub struct Claim<'b, 'm> {
    batch: &'b Batch<'m>,
    number: usize,
    outcome: Option<Outcome>,
}

impl<'m> Claim<'_, 'm> {
    /// The piece.
    pub fn piece(&self) -> &Checked<'m> {
        &self.batch.pieces[self.number]
    }

    /// It is done.
    pub fn done(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Claim<'_, '_> {
    fn drop(&mut self) {
        // Whoever panicked has said nothing: the others are not to wait for ever.
        let lost = || Err(failed(&std::io::Error::from_raw_os_error(libc::EIO)));
        let mut state = held(&self.batch.state);
        state.outcomes[self.number] = Some(self.outcome.take().unwrap_or_else(lost));
        state.running -= 1;
        if state.running == 0 {
            self.batch.idle.notify_all();
        }
    }
}
