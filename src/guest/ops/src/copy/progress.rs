//! How far it is.

use core::sync::atomic::{AtomicU64, Ordering};

use instar_image::Machine;

/// Counts the bytes of the disk that are done, on all workers.
pub struct Progress<'a> {
    machine: &'a dyn Machine,
    total: u64,
    done: AtomicU64,
}

impl<'a> Progress<'a> {
    /// Nothing is done yet.
    pub const fn new(machine: &'a dyn Machine, total: u64) -> Self {
        Self { machine, total, done: AtomicU64::new(0) }
    }

    /// `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.machine.progress(done.min(self.total), self.total);
    }

    /// All is done, what was empty and never counted too.
    pub fn end(&self) {
        if self.total > 0 {
            self.machine.progress(self.total, self.total);
        }
    }
}
