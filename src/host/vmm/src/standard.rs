//! Descriptors that this program was started with, and which of the standard ones it was started without.
//!
//! Rust's runtime puts /dev/null in their place before `main`: what is written there would be lost without an error.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::OFlags;

/// One bit a descriptor.
static ABSENT: AtomicU32 = AtomicU32::new(0);

extern "C" fn look() {
    for fd in 0..=2 {
        // SAFETY: asks for a flag of a descriptor; one that is not open is an error, which is the answer.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        // Where it may not be asked for, it is there as far as anybody knows.
        if flags == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EBADF) {
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

/// A descriptor that whoever started this program left open, to be written to: a copy of it.
///
/// # Errors
/// It is not open, or not for that.
pub fn inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: what is no open descriptor is an error; the copy is nobody else's.
    let copy = unsafe {
        match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) {
            -1 => return Err(io::Error::last_os_error()),
            copy => OwnedFd::from_raw_fd(copy),
        }
    };
    let mode = rustix::fs::fcntl_getfl(&copy)? & OFlags::ACCMODE;
    if mode == OFlags::RDONLY { Err(io::Error::from_raw_os_error(libc::EBADF)) } else { Ok(copy) }
}
