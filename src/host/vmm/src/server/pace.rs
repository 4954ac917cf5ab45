//! How a device answers: at once, as memory does, or so slowly that several requests should be under way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// So many bytes have to come fast before a device that was slow is believed to be fast.
const DOUBT: u64 = 64 << 20;
/// The same at first, of files on other machines.
const DOUBT_AT_FIRST: u64 = 8 << 20;

/// What is known of it.
#[derive(Debug)]
pub struct Pace {
    /// Bytes that still have to come fast; 0: it is fast.
    doubt: AtomicU64,
    /// Something came from it, or went to it.
    answered: AtomicBool,
}

/// A time for each request, and one for each byte, in nanoseconds.
struct Budget(u64, u64);

/// What comes out of memory takes less.
const FAST: Budget = Budget(200_000, 1);
/// What takes more did not come out of memory, even where others use the processor.
const SLOW: Budget = Budget(2_000_000, 4);

impl Budget {
    fn of(&self, len: u64) -> Duration {
        Duration::from_nanos(self.0.saturating_add(self.1.saturating_mul(len)))
    }
}

impl Pace {
    /// Of a device that nothing was read from yet.
    pub const fn new(remote: bool) -> Self {
        let doubt = AtomicU64::new(if remote { DOUBT_AT_FIRST } else { 0 });
        Self { doubt, answered: AtomicBool::new(false) }
    }

    /// Whether several requests should be under way.
    pub fn is_slow(&self) -> bool {
        self.doubt.load(Ordering::Relaxed) > 0
    }

    /// Whether it answers at all: one that never does should hold one request of each worker, not all that could be under
    /// way. The kernel gives some threads back only when they have their answer.
    pub fn answers(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Something did not come out of memory.
    pub fn waited(&self) {
        self.doubt.store(DOUBT, Ordering::Relaxed);
    }

    /// A request for `len` bytes took so long.
    pub fn took(&self, len: u64, time: Duration) {
        self.answered.store(true, Ordering::Relaxed);
        if time > SLOW.of(len) {
            self.waited();
        } else if time <= FAST.of(len) {
            // What is lost between two threads counts later.
            let doubt = self.doubt.load(Ordering::Relaxed);
            if doubt > 0 {
                self.doubt.store(doubt.saturating_sub(len), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_slow_until_much_came_fast() {
        let pace = Pace::new(false);
        pace.took(1 << 20, Duration::from_micros(400));
        assert!(!pace.is_slow());
        pace.took(4096, Duration::from_millis(3));
        assert!(pace.is_slow());
        for _ in 0..63 {
            pace.took(1 << 20, Duration::from_micros(400));
        }
        assert!(pace.is_slow(), "a mebibyte is missing");
        pace.took(1 << 20, Duration::from_millis(4));
        assert!(pace.is_slow(), "neither fast nor slow");
        pace.took(1 << 20, Duration::from_micros(400));
        assert!(!pace.is_slow());
        assert!(Pace::new(true).is_slow());
    }
}
