//! Fork and join: one body, run by every worker at once.

use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Mutex;

/// A borrowed closure whose lifetime [`Workers::publish`]'s caller vouches for.
#[derive(Clone, Copy)]
struct Body(&'static (dyn Fn(usize) + Sync));

/// The body that is being run, and who is still at it.
pub struct Workers {
    body: Mutex<Option<Body>>,
    busy: AtomicUsize,
}

impl Workers {
    /// Nothing to do.
    #[must_use]
    pub const fn new() -> Self {
        Self { body: Mutex::new(None), busy: AtomicUsize::new(0) }
    }

    /// Hands `body` to `others` workers and wakes them. The caller does not return to its own caller before
    /// [`Workers::all_done`] says true.
    pub fn publish(&self, body: &(dyn Fn(usize) + Sync), others: usize, wake: impl FnOnce()) {
        // SAFETY: only the lifetime changes. The one caller, `broadcast`, keeps the borrow alive until all
        // workers are done, and a panic ends the whole guest without unwinding.
        let body: &'static (dyn Fn(usize) + Sync) = unsafe { core::mem::transmute(body) };
        *self.body.lock() = Some(Body(body));
        self.busy.store(others, Ordering::Release);
        wake();
    }

    /// A woken worker does its part.
    pub fn take_part(&self, worker: usize) {
        let body = *self.body.lock();
        if let Some(Body(body)) = body {
            body(worker);
            self.busy.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Every worker is done.
    #[must_use]
    pub fn all_done(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self::new()
    }
}
