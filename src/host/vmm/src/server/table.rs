//! The devices by index.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::SeekFrom;

use crate::Device;

/// Most devices.
pub const DEVICES_MAX: usize = 1024;

/// One device and what the server keeps of it.
#[derive(Debug)]
pub struct Slot {
    /// The device.
    pub device: Device,
    /// Length in bytes.
    pub len: AtomicU64,
    /// It is a block device.
    pub block: bool,
    /// Device and inode number: what tells that two names are one file.
    pub identity: (u64, u64),
    /// The device whose image named it.
    pub parent: Option<u32>,
    /// Cloning or copying between files was refused once: do not try again.
    pub no_clone: Mutex<bool>,
}

impl Slot {
    fn new(device: Device, parent: Option<u32>) -> Self {
        let meta = device.file.metadata().ok();
        let block = meta.as_ref().is_some_and(|m| m.file_type().is_block_device());
        // A block device's length is where its end is.
        let len = if block {
            rustix::fs::seek(&device.file, SeekFrom::End(0)).unwrap_or(0)
        } else {
            meta.as_ref().map_or(0, std::fs::Metadata::len)
        };
        let identity = meta.as_ref().map_or((0, 0), |m| if block { (u64::MAX, m.rdev()) } else { (m.dev(), m.ino()) });
        Self { device, len: AtomicU64::new(len), block, identity, parent, no_clone: Mutex::new(false) }
    }

    /// The device may be written, and become so long.
    #[must_use]
    pub fn growth_limit(&self) -> Option<u64> {
        match self.device.mode {
            crate::Mode::Read => None,
            crate::Mode::Write { .. } if self.block => Some(self.len.load(Ordering::Relaxed)),
            crate::Mode::Write { growth_limit_bytes } => Some(growth_limit_bytes),
        }
    }

    /// Something was written up to `end`.
    pub fn grew(&self, end: u64) {
        self.len.fetch_max(end, Ordering::Relaxed);
    }
}

/// All devices.
#[derive(Debug)]
pub struct Table {
    slots: RwLock<Vec<Arc<Slot>>>,
}

impl Table {
    /// The job's devices.
    #[must_use]
    pub fn new(devices: Vec<Device>) -> Self {
        let slots = devices.into_iter().map(|d| Arc::new(Slot::new(d, None))).collect();
        Self { slots: RwLock::new(slots) }
    }

    /// Device `index`.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(index as usize).cloned()
    }

    /// Adds one; `None` if there are too many.
    #[must_use]
    pub fn push(&self, device: Device, parent: u32) -> Option<u32> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= DEVICES_MAX {
            return None;
        }
        slots.push(Arc::new(Slot::new(device, Some(parent))));
        u32::try_from(slots.len() - 1).ok()
    }

    /// Back to plain devices.
    #[must_use]
    pub fn into_devices(self) -> Vec<Device> {
        let slots = self.slots.into_inner().unwrap_or_else(PoisonError::into_inner);
        slots.into_iter().filter_map(|slot| Arc::into_inner(slot).map(|s| s.device)).collect()
    }
}
