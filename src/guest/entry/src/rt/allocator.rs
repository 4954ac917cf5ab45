//! The heap: talc behind a spin lock, over the memory that the host gave.

use core::sync::atomic::{AtomicBool, Ordering};

use talc::source::Manual;
use talc::{TalcLock, lock_api};

/// A lock without an operating system: held for the length of one allocation.
struct SpinLock(AtomicBool);

// SAFETY: `try_lock` succeeds only for the one that turns false into true, until it unlocks.
unsafe impl lock_api::RawMutex for SpinLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "lock_api's own shape")]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            while self.0.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

#[global_allocator]
static HEAP: TalcLock<SpinLock, Manual> = TalcLock::new(Manual);

/// Gives the allocator its memory.
pub fn give_heap(at: u64, len: u64) {
    // SAFETY: the host mapped so many bytes there, for this and nothing else, and this is called once.
    let claimed = unsafe { HEAP.lock().claim(at as *mut u8, len as usize) };
    assert!(claimed.is_some(), "the heap is too small");
}
