//! Where a worker sleeps until another wakes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counts wakes that were not waited for yet.
#[derive(Debug, Default)]
pub struct Semaphore {
    wakes: Mutex<u32>,
    changed: Condvar,
}

impl Semaphore {
    /// One wake more.
    pub fn wake(&self) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        *wakes = wakes.saturating_add(1);
        self.changed.notify_all();
    }

    /// Takes a wake, or gives up after `max` or when the run is over.
    pub fn wait(&self, max: Option<Duration>, over: &AtomicBool) {
        let mut wakes = self.until_woken(max, over);
        *wakes = wakes.saturating_sub(1);
    }

    /// Waits like [`Semaphore::wait`], and takes nothing.
    pub fn until_woken(&self, max: Option<Duration>, over: &AtomicBool) -> MutexGuard<'_, u32> {
        // A pause of bounded length looks at the flag again even if nobody wakes.
        const LONGEST: Duration = Duration::from_millis(500);
        let until = max.map(|max| Instant::now() + max);
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        while *wakes == 0 && !over.load(Ordering::Relaxed) {
            let left = until.map_or(LONGEST, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            wakes = self.changed.wait_timeout(wakes, left.min(LONGEST)).unwrap_or_else(PoisonError::into_inner).0;
        }
        wakes
    }
}
