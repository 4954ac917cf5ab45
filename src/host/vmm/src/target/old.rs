//! What a target that is written where it is held before: it stays until the guest changes something.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::publisher;

/// Bytes at the start of a block device that are written last: by these a program knows what is on it.
const FIRST: usize = 4096;

/// The old content of a target.
#[derive(Debug)]
pub struct Old {
    file: File,
    kind: Kind,
    begun: AtomicBool,
    /// Held while the first change is made possible.
    beginning: Mutex<()>,
}

#[derive(Debug)]
enum Kind {
    /// A file is emptied before the first change; who publishes it is told, and empties it when the command fails.
    File(UnixStream),
    /// A block device's first bytes are cleared before the first change, and what they are to be is kept here until the end.
    /// The boolean: changes need not be stable.
    Device(Mutex<Box<Block>>, bool),
}

/// Aligned for `O_DIRECT`.
#[derive(Debug)]
#[repr(C, align(4096))]
struct Block([u8; FIRST], usize);

impl Old {
    /// A file's.
    pub fn of_file(file: File, publisher: UnixStream) -> Self {
        Self::new(file, Kind::File(publisher))
    }

    /// A block device's.
    pub fn of_device(file: File, ignore_flush: bool) -> Self {
        Self::new(file, Kind::Device(Mutex::new(Box::new(Block([0; FIRST], 0))), ignore_flush))
    }

    fn new(file: File, kind: Kind) -> Self {
        Self { file, kind, begun: AtomicBool::new(false), beginning: Mutex::default() }
    }

    /// The file still holds what it held, and the guest is to see an empty one.
    pub fn is_hidden(&self) -> bool {
        matches!(self.kind, Kind::File(_)) && !self.begun.load(Ordering::Acquire)
    }

    /// Before a change.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin(&self) -> io::Result<()> {
        if self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let _held = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        if self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        match &self.kind {
            Kind::File(publisher) => {
                publisher::tell_begun(publisher)?;
                self.file.set_len(0)?;
            }
            Kind::Device(first, ignore_flush) => {
                let mut first = lock(first);
                let Block(bytes, len) = &mut **first;
                *len = read_whole(&self.file, bytes)?;
                self.file.write_all_at(&Box::new(Block([0; FIRST], 0)).0[..*len], 0)?;
                if !ignore_flush {
                    self.file.sync_data()?;
                }
            }
        }
        self.begun.store(true, Ordering::Release);
        Ok(())
    }

    /// What is written at `offset` is kept here.
    pub fn keeps(&self, offset: u64) -> bool {
        self.first(offset, 1, |_| {}) > 0
    }

    /// Keeps what of `bytes`, to be written at `offset`, is for the first bytes: how many of them that are.
    pub fn keep(&self, offset: u64, bytes: &[u8]) -> usize {
        self.first(offset, bytes.len(), |kept| kept.copy_from_slice(&bytes[..kept.len()]))
    }

    /// The same for zeroes.
    pub fn keep_zeroes(&self, offset: u64, len: u64) {
        self.first(offset, usize::try_from(len).unwrap_or(usize::MAX), |kept| kept.fill(0));
    }

    /// What is kept, for a read of `len` bytes at `offset`.
    pub fn kept(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.first(offset, len, |kept| bytes.extend_from_slice(kept));
        bytes
    }

    fn first(&self, offset: u64, len: usize, with: impl FnOnce(&mut [u8])) -> usize {
        let Kind::Device(first, _) = &self.kind else { return 0 };
        let mut first = lock(first);
        let Block(bytes, have) = &mut **first;
        let Some(from) = usize::try_from(offset).ok().filter(|from| from < have) else { return 0 };
        let to = from.saturating_add(len).min(*have);
        with(&mut bytes[from..to]);
        to - from
    }

    /// The command succeeded.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end(&self) -> io::Result<()> {
        self.begin()?;
        if let Kind::Device(first, ignore_flush) = &self.kind {
            let first = lock(first);
            self.file.write_all_at(&first.0[..first.1], 0)?;
            if !ignore_flush {
                self.file.sync_data()?;
            }
        }
        Ok(())
    }
}

fn lock(first: &Mutex<Box<Block>>) -> MutexGuard<'_, Box<Block>> {
    first.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As much as there is.
fn read_whole(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
