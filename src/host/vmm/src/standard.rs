//! Which of the standard descriptors this program was started without.
//!
//! Rust's runtime puts /dev/null in their place before `main`: what is written there would be lost without an error.

use std::sync::atomic::{AtomicU32, Ordering};

/// One bit a descriptor.
static ABSENT: AtomicU32 = AtomicU32::new(0);

extern "C" fn look() {
    for fd in 0..=2 {
        // SAFETY: asks for a flag of a descriptor; one that is not open is an error, which is the answer.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            ABSENT.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
}

// SAFETY: the section holds pointers to functions that are called before `main`, when there is one thread; this one
// needs nothing that is set up later.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Descriptor `fd` (0 to 2) was not open when the program started.
#[must_use]
pub fn was_absent(fd: u32) -> bool {
    fd <= 2 && ABSENT.load(Ordering::Relaxed) & 1 << fd != 0
}
