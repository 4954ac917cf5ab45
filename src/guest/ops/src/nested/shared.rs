//! What many read at a time, or one changes.

use instar_image::{Machine, until};
use spin::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A value that workers share. Who waits gives the processor away: what is done under the lock may wait for a disk.
pub struct Shared<T>(RwLock<T>);

impl<T> Shared<T> {
    pub const fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// To be read, beside others who do.
    pub fn read(&self, machine: &dyn Machine) -> RwLockReadGuard<'_, T> {
        until(machine, || self.0.try_read())
    }

    /// To be changed, alone.
    pub fn alone(&self, machine: &dyn Machine) -> RwLockWriteGuard<'_, T> {
        until(machine, || self.0.try_write())
    }
}
