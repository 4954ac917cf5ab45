//! Fork and join: one body, run by every worker that comes in time.

use spin::Mutex;

/// A borrowed closure whose lifetime [`Workers::publish`]'s caller vouches for.
#[derive(Clone, Copy)]
struct Body(&'static (dyn Fn(usize) + Sync));

/// The body that is being run, and how many others are at it.
struct State {
    body: Option<Body>,
    busy: usize,
}

/// What is being run.
pub struct Workers {
    state: Mutex<State>,
}

impl Workers {
    /// Nothing to do.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { body: None, busy: 0 }) }
    }

    /// Offers `body` to the other workers. The caller does not return to its own caller before [`Workers::all_done`] says
    /// true.
    pub fn publish(&self, body: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. The one caller, `broadcast`, keeps the borrow alive until the offer is
        // withdrawn and all workers are done, and a panic ends the whole guest without unwinding.
        let body: &'static (dyn Fn(usize) + Sync) = unsafe { core::mem::transmute(body) };
        self.state.lock().body = Some(Body(body));
    }

    /// Nobody begins any more: who wakes too late finds nothing.
    pub fn withdraw(&self) {
        self.state.lock().body = None;
    }

    /// A woken worker does its part.
    pub fn take_part(&self, worker: usize) {
        let body = {
            let mut state = self.state.lock();
            state.busy += usize::from(state.body.is_some());
            state.body
        };
        if let Some(Body(body)) = body {
            body(worker);
            self.state.lock().busy -= 1;
        }
    }

    /// Every worker that began is done.
    #[must_use]
    pub fn all_done(&self) -> bool {
        self.state.lock().busy == 0
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self::new()
    }
}
