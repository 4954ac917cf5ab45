//! Many requests under way: what a slow device makes one wait for is carried out by several threads side by side.
//!
//! A worker hands in a batch of pieces, takes part in it, and goes on when all of it is done: so it gets done where no
//! thread can be had, too. The threads begin with the first batch of more than one piece. Each has one piece at a time, which
//! is what bounds the bytes under way.

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

    /// Makes a batch known to as many threads as there are pieces, but for one, which is left for whoever hands it in.
    pub fn hand_in(&self, batch: &Arc<Batch<'m>>) {
        let helpers = batch.waiting().saturating_sub(1).min(THREADS_MAX);
        if helpers == 0 {
            return;
        }
        held(&self.batches).waiting.push_back(Arc::clone(batch));
        if self.wanted.fetch_max(helpers, Ordering::AcqRel) < helpers
            && let Some(starter) = self.starter.get()
        {
            starter.unpark();
        }
        (0..helpers).for_each(|_| self.handed_in.notify_one());
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
    /// Of each piece, the number of the first that belongs to the next request.
    ends: Vec<usize>,
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Debug)]
struct State {
    next: usize,
    running: usize,
    stages: Vec<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Running,
    Done(Outcome),
    /// One before it says all of the request.
    Left,
}

impl State {
    /// The next piece that waits.
    fn waiting(&mut self) -> Option<usize> {
        while self.stages.get(self.next).is_some_and(|stage| *stage != Stage::Waiting) {
            self.next += 1;
        }
        Some(self.next).filter(|next| *next < self.stages.len())
    }
}

impl<'m> Batch<'m> {
    /// A batch of which nothing is done. `counts`: how many pieces each request has.
    pub fn new(pieces: Vec<Checked<'m>>, counts: impl Iterator<Item = usize>) -> Arc<Self> {
        let mut ends: Vec<usize> = Vec::with_capacity(pieces.len());
        for count in counts {
            ends.resize(ends.len() + count, ends.len() + count);
        }
        let state = Mutex::new(State { next: 0, running: 0, stages: vec![Stage::Waiting; pieces.len()] });
        Arc::new(Self { pieces, ends, state, idle: Condvar::new() })
    }

    /// How many pieces wait.
    fn waiting(&self) -> usize {
        held(&self.state).stages.iter().filter(|stage| **stage == Stage::Waiting).count()
    }

    fn is_handed_out(&self) -> bool {
        held(&self.state).waiting().is_none()
    }

    /// The next piece; none, too, if the run is over.
    pub fn claim(&self, over: &AtomicBool) -> Option<Claim<'_, 'm>> {
        let mut state = held(&self.state);
        let number = state.waiting()?;
        self.begin(state, number, over)
    }

    /// That piece, if nobody has it.
    pub fn claim_one(&self, number: usize, over: &AtomicBool) -> Option<Claim<'_, 'm>> {
        let state = held(&self.state);
        if state.stages.get(number) == Some(&Stage::Waiting) { self.begin(state, number, over) } else { None }
    }

    fn begin(&self, mut state: MutexGuard<'_, State>, number: usize, over: &AtomicBool) -> Option<Claim<'_, 'm>> {
        if over.load(Ordering::Relaxed) {
            // What is left is nobody's any more.
            state.stages.iter_mut().filter(|stage| **stage == Stage::Waiting).for_each(|stage| *stage = Stage::Left);
            return None;
        }
        state.stages[number] = Stage::Running;
        state.running += 1;
        Some(Claim { batch: self, number, outcome: None })
    }

    /// Waits until nobody is at work, when all was handed out. `None`: that piece was not begun.
    pub fn outcomes(&self) -> Vec<Option<Outcome>> {
        let mut state = held(&self.state);
        while state.running > 0 {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let outcome = |stage: &Stage| if let Stage::Done(outcome) = stage { Some(*outcome) } else { None };
        state.stages.iter().map(outcome).collect()
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
        let outcome = self.outcome.take().unwrap_or_else(lost);
        let mut state = held(&self.batch.state);
        state.stages[self.number] = Stage::Done(outcome);
        if self.piece().ends_with(&outcome) {
            // Pieces are begun in their order: those before it are under way, or done.
            let behind = self.number + 1..self.batch.ends[self.number];
            state.stages[behind].iter_mut().filter(|stage| **stage == Stage::Waiting).for_each(|s| *s = Stage::Left);
        }
        state.running -= 1;
        if state.running == 0 {
            self.batch.idle.notify_all();
        }
    }
}
