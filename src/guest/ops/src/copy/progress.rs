//! How far it is.

use instar_image::Machine;
use spin::Mutex;

/// Counts the bytes of the disk that are done, on all workers.
pub struct Progress<'a> {
    machine: &'a dyn Machine,
    total: u64,
    /// Held while the host is told: else one worker would tell of more before another of less, which then is lost.
    done: Mutex<u64>,
}

impl<'a> Progress<'a> {
    /// Nothing is done yet.
    pub const fn new(machine: &'a dyn Machine, total: u64) -> Self {
        Self { machine, total, done: Mutex::new(0) }
    }

    /// `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        let mut done = self.done.lock();
        *done = done.saturating_add(bytes);
        self.machine.progress((*done).min(self.total), self.total);
    }

    /// All that was counted is done. Where nothing was, nothing is told.
    pub fn end_counted(&self) {
        if *self.done.lock() > 0 {
            self.end();
        }
    }

    /// All is done, what was empty and never counted too.
    pub fn end(&self) {
        if self.total > 0 {
            self.machine.progress(self.total, self.total);
        }
    }
}
