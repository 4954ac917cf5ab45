//! Bytes that nobody else is to see, and memory that keeps nothing of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::ops::Deref;

use zeroize::Zeroize;

/// A secret in pages of its own: a process that is made by fork(2) finds zeroes there, no core holds it, and it is wiped
/// when it is dropped.
#[derive(Debug)]
pub struct Secret {
    at: *mut u8,
    len: usize,
    mapped: usize,
}

impl Secret {
    /// A copy of these bytes.
    ///
    /// # Errors
    /// The kernel's; `MADV_WIPEONFORK` is there from 4.14 on.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        let mapped = bytes.len().max(1);
        // SAFETY: a new mapping at an address of the kernel's choice, as long as what is copied into it. Where the kernel
        // does not promise what is asked of it, the mapping goes.
        unsafe {
            let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let at = libc::mmap(std::ptr::null_mut(), mapped, rights, flags, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let kept =
                [libc::MADV_WIPEONFORK, libc::MADV_DONTDUMP].iter().all(|how| libc::madvise(at, mapped, *how) == 0);
            let secret = Self { at: at.cast(), len: bytes.len(), mapped };
            if !kept {
                return Err(io::Error::last_os_error());
            }
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), secret.at, secret.len);
            Ok(secret)
        }
    }
}

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped there, and nobody else has the address.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // SAFETY: made by `new`; no borrow outlives the value.
        unsafe {
            std::slice::from_raw_parts_mut(self.at, self.len).zeroize();
            libc::munmap(self.at.cast(), self.mapped);
        }
    }
}

/// What is larger is no secret (the kernel takes no longer argument than 128 KiB) but a buffer for what images hold: to write
/// over it takes longer than a short command has.
const WIPED_MAX: usize = 1 << 20;

/// The system's allocator, which wipes what is given back: of a secret that went through a buffer that grew, a text that was
/// taken apart or an argument that was copied, nothing is left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wiping;

// SAFETY: all is the system's allocator's; what is given back is written to while it is still ours.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise: so many bytes are there. The empty instruction makes the compiler believe that
        // somebody looks at them.
        unsafe {
            if layout.size() <= WIPED_MAX {
                std::ptr::write_bytes(at, 0, layout.size());
            }
            core::arch::asm!("/* {} */", in(reg) at, options(nostack, preserves_flags));
            System.dealloc(at, layout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_process_finds_nothing() {
        let secret = Secret::new(b"abc").expect("memory");
        assert_eq!(&*secret, b"abc");
        assert_eq!(&*Secret::new(b"").expect("memory"), b"");
        // SAFETY: the child looks at memory and ends.
        unsafe {
            match libc::fork() {
                0 => libc::_exit(i32::from(*secret != [0; 3])),
                child => {
                    let mut status = -1;
                    assert_eq!((libc::waitpid(child, &raw mut status, 0), status), (child, 0));
                }
            }
        }
        assert_eq!(&*secret, b"abc");
    }
}
