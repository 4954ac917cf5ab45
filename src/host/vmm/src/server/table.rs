//! The devices by index.

use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use instar_abi::ring::Role;
use rustix::fs::{Advice, SeekFrom};

use super::pace::Pace;
use crate::Device;
use crate::policy::{BLOCK, Parts};

/// Most devices.
pub const DEVICES_MAX: usize = 1 << 14;

/// Magic numbers (statfs(2)) of NFS, CIFS, SMB 2, Ceph, FUSE. On others `copy_file_range` moves a few pages at a
/// time and was measured to be half as fast as reading and writing.
const REMOTE: [i64; 5] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400, 0x6573_5546];

/// So much longer than it is known to be a new file is made at most, in bytes.
const AHEAD: u64 = 64 << 20;

/// Magic numbers of XFS, btrfs, bcachefs: their files can share blocks.
const SHARING: [i64; 3] = [0x5846_5342, 0x9123_683e, 0xca45_1a4e];

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
    /// What that image named it as.
    pub role: Option<Role>,
    /// The file lies where a copy inside the kernel moves fewer bytes than a read and a write: with another machine.
    pub remote: bool,
    /// The file system is asked to allocate so many bytes of the file at once; 0: nothing is asked.
    pub extent_size_hint: u32,
    /// The file lies where files can share blocks.
    shares: bool,
    /// Sharing blocks with another file was refused once: it is not tried again.
    pub no_clone: AtomicBool,
    /// How it answers.
    pub pace: Pace,
    /// Further files that may still be opened for writing for its image.
    pub left: Mutex<Parts>,
    /// So far the device may be written.
    granted: AtomicU64,
    /// Held while the length is changed, so that no two changes undo each other: how long the file is, where it was made longer
    /// than it is known to be; else 0.
    resizing: Mutex<u64>,
    /// Held while a block that is not written whole is read, changed and written back (`O_DIRECT`).
    pub edges: Mutex<()>,
}

impl Slot {
    /// A device in its place; `parent` is the one whose image named it.
    pub fn new(device: Device, parent: Option<u32>) -> Self {
        let meta = device.file.metadata().ok();
        let block = meta.as_ref().is_some_and(|m| m.file_type().is_block_device());
        // A block device's length is where its end is.
        let hidden = device.old.as_ref().is_some_and(|old| old.is_hidden());
        let len = if hidden {
            0
        } else if block {
            rustix::fs::seek(&device.file, SeekFrom::End(0)).unwrap_or(0)
        } else {
            meta.as_ref().map_or(0, std::fs::Metadata::len)
        };
        let identity = meta.as_ref().map_or((0, 0), |m| if block { (BLOCK, m.rdev()) } else { (m.dev(), m.ino()) });
        let kind = rustix::fs::fstatfs(&device.file).map_or(0, |fs| fs.f_type);
        let remote = REMOTE.contains(&kind);
        let shares = !block && SHARING.contains(&kind);
        let (no_clone, resizing, edges) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        let (left, granted) = (Mutex::new(device.parts), AtomicU64::new(len));
        let extent_size_hint = if block { 0 } else { crate::target::extent_size_hint(&device.file) };
        let len = AtomicU64::new(len);
        Self {
            device,
            len,
            block,
            identity,
            parent,
            role: None,
            remote,
            extent_size_hint,
            shares,
            no_clone,
            pace: Pace::new(remote),
            left,
            granted,
            resizing,
            edges,
        }
    }

    /// The device may be written, and grow by so many bytes at most.
    #[must_use]
    pub fn growth_limit(&self) -> Option<u64> {
        match self.device.mode {
            crate::Mode::Read => None,
            crate::Mode::Write { .. } if self.block => Some(0),
            crate::Mode::Write { growth_limit_bytes } => Some(growth_limit_bytes),
        }
    }

    /// Takes what the device must grow by to be written up to `end` from what all of the run's files may grow by
    /// together: `grown` is how much of that is taken.
    #[must_use]
    pub fn grant(&self, end: u64, grown: &AtomicU64) -> bool {
        // A device does not grow: what lies behind its end the kernel refuses.
        if self.block || end <= self.granted.load(Ordering::Acquire) {
            return true;
        }
        let _held = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let more = end.saturating_sub(self.granted.load(Ordering::Acquire));
        let limit = self.growth_limit().unwrap_or(0);
        let take = |grown: u64| grown.checked_add(more).filter(|all| more == 0 || *all <= limit);
        if grown.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
            return false;
        }
        self.granted.fetch_max(end, Ordering::AcqRel);
        true
    }

    /// What is in the file is not for the guest: it goes before the first change.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.device.old.as_ref().is_some_and(|old| old.is_hidden())
    }

    /// Before a change: what the device held goes.
    pub fn begin(&self) -> io::Result<()> {
        self.device.old.as_ref().map_or(Ok(()), |old| old.begin())
    }

    /// What is written at `offset` is kept for the end.
    pub fn keeps(&self, offset: u64) -> bool {
        self.device.old.as_ref().is_some_and(|old| old.keeps(offset))
    }

    /// How many of `bytes`, to be written at `offset`, are kept for the end.
    pub fn keep(&self, offset: u64, bytes: &[u8]) -> usize {
        self.device.old.as_ref().map_or(0, |old| old.keep(offset, bytes))
    }

    /// Whether blocks of it can be shared with another file, as far as is known.
    pub fn may_share(&self) -> bool {
        self.shares && !self.no_clone.load(Ordering::Relaxed)
    }

    /// Whether requests to it are waited for, so that several should be under way.
    pub fn is_slow(&self) -> bool {
        self.device.direct || self.pace.is_slow()
    }

    /// A few bytes at `offset` could not be read: a neighbour that the kernel reads together with them may be what is broken.
    /// Forgets what it read there; from now on it reads no more than it is asked for.
    pub fn read_alone(&self, offset: u64) {
        const AROUND: u64 = 4 << 20;
        let start = offset / AROUND * AROUND;
        // Only advice: where it is not taken, it stays as it is.
        let _ = rustix::fs::fadvise(&self.device.file, 0, None, Advice::Random);
        let _ = rustix::fs::fadvise(&self.device.file, start, NonZeroU64::new(2 * AROUND), Advice::DontNeed);
    }

    /// Puts what is kept over what was read at `offset`.
    pub fn show_kept(&self, offset: u64, len: usize, put: impl FnOnce(&[u8])) {
        if let Some(old) = &self.device.old {
            put(&old.kept(offset, len));
        }
    }

    /// Makes known that something is about to be written up to `end`: from now on nobody takes the file for shorter
    /// and cuts it there.
    pub fn reserve(&self, end: u64) {
        if end > self.len.load(Ordering::Acquire) {
            let mut longer = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
            self.len.fetch_max(end, Ordering::AcqRel);
            // Past the page cache a file system takes writes side by side only below the end of the file. A file that was there
            // before is never longer than it is to be: the run may be cut off.
            let new = self.device.fresh && self.device.old.is_none();
            if self.device.direct && new && !self.block && end > *longer {
                let ahead = end.next_multiple_of(AHEAD);
                *longer = rustix::fs::ftruncate(&self.device.file, ahead).map_or(0, |()| ahead);
            }
        }
    }

    /// Nothing more will be written: the file gets its length.
    pub fn finish(&self) -> io::Result<()> {
        let mut longer = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.len.load(Ordering::Acquire);
        if *longer > len {
            rustix::fs::ftruncate(&self.device.file, len)?;
        }
        *longer = 0;
        Ok(())
    }

    /// Makes the file at least `end` long; returns how long it was.
    pub fn extend(&self, end: u64) -> io::Result<u64> {
        let longer = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.len.load(Ordering::Acquire);
        if end > old && !self.block {
            if end > *longer {
                rustix::fs::ftruncate(&self.device.file, end)?;
            }
            self.len.store(end, Ordering::Release);
        }
        Ok(old)
    }

    /// Sets the length; a block device's is what it is, and a longer one cannot be had.
    pub fn set_length(&self, len: u64) -> io::Result<()> {
        let mut longer = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.block {
            let fits = len <= self.len.load(Ordering::Acquire);
            return if fits { Ok(()) } else { Err(rustix::io::Errno::NOSPC.into()) };
        }
        rustix::fs::ftruncate(&self.device.file, len)?;
        *longer = 0;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    /// Cuts off what was written past the known length only because whole blocks had to be.
    pub fn cut_padding(&self, written_to: u64) -> io::Result<()> {
        let longer = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.len.load(Ordering::Acquire);
        if written_to > len.max(*longer) && !self.block {
            rustix::fs::ftruncate(&self.device.file, len)?;
        }
        Ok(())
    }
}

/// Who of the run has a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// No device.
    Nobody,
    /// The image that asks, by this device.
    Own(u32),
    /// Another, which reads it.
    Other,
    /// Another, which writes to it.
    Writer,
}

/// All devices.
#[derive(Debug)]
pub struct Table {
    slots: RwLock<Vec<Arc<Slot>>>,
    /// Devices at most.
    pub most: usize,
    /// Bytes that the files have grown by, all together.
    grown: AtomicU64,
}

impl Table {
    /// The job's devices.
    #[must_use]
    pub fn new(devices: Vec<Device>) -> Self {
        let slots = devices.into_iter().map(|d| Arc::new(Slot::new(d, None))).collect();
        Self { slots: RwLock::new(slots), most: DEVICES_MAX, grown: AtomicU64::new(0) }
    }

    /// See [`Slot::grant`].
    #[must_use]
    pub fn grant(&self, slot: &Slot, end: u64) -> bool {
        slot.grant(end, &self.grown)
    }

    /// Device `index`.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(index as usize).cloned()
    }

    /// Whether any device has it.
    pub fn any(&self, has: impl Fn(&Device) -> bool) -> bool {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).iter().any(|slot| has(&slot.device))
    }

    /// The first device that is the same file.
    #[must_use]
    pub fn first_of(&self, slot: &Slot) -> u32 {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().position(|s| s.identity == slot.identity).and_then(|i| u32::try_from(i).ok()).unwrap_or(0)
    }

    /// Who has that file: the image on `parent`, if it has it good for writing, or `write` is not wanted. What it has to
    /// write to as one thing is not its own as another.
    #[must_use]
    pub fn held(&self, identity: (u64, u64), parent: u32, role: Role, write: bool) -> Holder {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let mut same = slots.iter().enumerate().filter(|(_, slot)| slot.identity == identity).peekable();
        if same.peek().is_none() {
            return Holder::Nobody;
        }
        let good = |slot: &Slot| {
            let read_only = slot.device.mode == crate::Mode::Read;
            slot.parent == Some(parent) && if read_only { !write } else { slot.role == Some(role) }
        };
        let (mut own, mut written) = (None, false);
        for (index, slot) in same {
            own = own.or_else(|| u32::try_from(index).ok().filter(|_| good(slot)));
            written |= slot.device.mode != crate::Mode::Read;
        }
        own.map_or(if written { Holder::Writer } else { Holder::Other }, Holder::Own)
    }

    /// There is no room for another.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).len() >= self.most
    }

    /// Adds one; `None` if there are too many.
    #[must_use]
    pub fn push(&self, device: Device, parent: u32, role: Option<Role>) -> Option<u32> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= self.most {
            return None;
        }
        slots.push(Arc::new(Slot { role, ..Slot::new(device, Some(parent)) }));
        u32::try_from(slots.len() - 1).ok()
    }

    /// Every file gets its length.
    pub fn finish(&self) -> io::Result<()> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|slot| slot.finish()).fold(Ok(()), Result::and)
    }

    /// Back to plain devices.
    #[must_use]
    pub fn into_devices(self) -> Vec<Device> {
        let slots = self.slots.into_inner().unwrap_or_else(PoisonError::into_inner);
        slots.into_iter().filter_map(|slot| Arc::into_inner(slot).map(|s| s.device)).collect()
    }
}
