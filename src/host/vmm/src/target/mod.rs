//! The files that a command makes. Nothing half-written is ever seen under the final name.
//!
//! Where a target is, is looked up once ([`place`]). A new file, or one that replaces an existing one, is written without a
//! name (or under a hidden one) in its folder ([`made`]), and published in one step when it is complete, with all that the
//! earlier one had besides its content ([`attributes`]). Where that would take something from somebody ([`keep`]) an existing
//! file is written where it is; what it holds goes when the guest changes something for the first time, and not before
//! ([`old`]). The one who publishes is a small process that is made
//! before the lock-down and does nothing until it is told ([`publisher`]): the process that serves the guest can neither
//! name nor rename a file. When that process dies, of whatever cause, what is not published goes.
//!
//! An image may be several files: the publisher makes the others, by names that it makes itself, and publishes all of
//! them together.

mod attributes;
mod copied;
mod held;
mod hints;
mod keep;
mod made;
mod old;
mod place;
mod publisher;
mod swap;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::locks::{self, Locked};
pub use hints::{Hints, extent_size_hint};
use made::Made;
pub use old::Old;
use place::Place;
pub use publisher::Maker;
use publisher::Publisher;

/// How a target's writes reach the disk (`-t`), and how the file system is to hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// `none`, `directsync`: past the page cache.
    pub direct: bool,
    /// `writethrough`, `directsync`: every write is stable before it is done.
    pub sync: bool,
    /// `unsafe`: flushes do nothing.
    pub ignore_flush: bool,
    /// What a new file is to be like.
    pub hints: Hints,
}

impl Cache {
    /// By qemu-img's name for it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let (direct, sync, ignore_flush) = match name {
            "none" | "off" => (true, false, false),
            "writeback" => (false, false, false),
            "unsafe" => (false, false, true),
            "writethrough" => (false, true, false),
            "directsync" => (true, true, false),
            _ => return None,
        };
        Some(Self { direct, sync, ignore_flush, hints: Hints::default() })
    }

    fn flags(self) -> OFlags {
        let flag = |is: bool, flag: OFlags| if is { flag } else { OFlags::empty() };
        flag(self.direct, OFlags::DIRECT) | flag(self.sync, OFlags::DSYNC)
    }

    /// Opens something with its flags; without `O_DIRECT` where the file system does not take that.
    fn with<T>(self, open: impl Fn(OFlags) -> Result<T, Errno>) -> Result<T, Errno> {
        match open(self.flags()) {
            Err(Errno::INVAL) if self.direct => open(Self { direct: false, ..self }.flags()),
            other => other,
        }
    }
}

/// Opens an existing file or device to be read.
///
/// # Errors
/// The kernel's.
pub fn open(path: &Path, cache: Cache) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = cache.with(|more| rustix::fs::open(path, flags | more, rustix::fs::Mode::empty()))?;
    Ok(File::from(file))
}

/// Whether the file was opened past the page cache.
#[must_use]
pub fn is_direct(file: &File) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::DIRECT))
}

/// Why there is no target.
#[derive(Debug)]
pub enum Error {
    /// The kernel's answer.
    Io(io::Error),
    /// Another program uses it.
    Locked(Locked),
    /// Neither a regular file nor a block device.
    WrongType,
    /// A block device that takes no writes.
    ReadOnlyDevice,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A target that is being written.
#[derive(Debug)]
pub struct Target {
    publisher: Option<Publisher>,
    old: Option<Arc<Old>>,
}

/// What is written to.
#[derive(Debug)]
pub struct Written {
    /// The file or device.
    pub file: File,
    /// It reads as zeroes.
    pub fresh: bool,
    /// What it held before, where it is no other file.
    pub old: Option<Arc<Old>>,
}

impl Target {
    /// Makes the file that will be `path`. `need`: bytes that will be written, as far as they are known.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn create(path: &Path, cache: Cache, need: u64) -> Result<(Self, Written), Error> {
        let made = Made::new(path, cache, need)?;
        let (file, other) = (made.file().try_clone()?, made.file().try_clone()?);
        let (publisher, old) = match made {
            Made::Device(_) => (None, Some(Old::of_device(other, cache.ignore_flush))),
            Made::Draft(_) | Made::Copied(_) => (Some(Publisher::start(made, path, cache)?), None),
            Made::InPlace { .. } => {
                let publisher = Publisher::start(made, path, cache)?;
                let line = publisher.line()?;
                (Some(publisher), Some(Old::of_file(other, line)))
            }
        };
        let (fresh, old) = (publisher.is_some(), old.map(Arc::new));
        Ok((Self { publisher, old: old.clone() }, Written { file, fresh, old }))
    }

    /// Who makes files beside it; nobody does beside a block device.
    #[must_use]
    pub fn maker(&self) -> Option<Maker> {
        self.publisher.as_ref().and_then(Publisher::maker)
    }

    /// An existing file or device, to be written where it is (`-n`).
    ///
    /// # Errors
    /// See [`Error`].
    pub fn existing(path: &Path, cache: Cache) -> Result<File, Error> {
        let file = Place::find(path)?.open(cache)?;
        lock(file.ok_or(Errno::NOENT)?)
    }

    /// Publishes it under its name, with the files beside it.
    ///
    /// # Errors
    /// The kernel's; nothing is published then.
    pub fn publish(self) -> io::Result<()> {
        if let Some(old) = self.old {
            old.end()?;
        }
        self.publisher.map_or(Ok(()), Publisher::publish)
    }
}

fn lock(file: File) -> Result<File, Error> {
    locks::lock_for_write(&file).map_err(Error::Locked)?;
    Ok(file)
}

/// The path, absolute, for resolving what an image names against; without asking for the file itself. It is to be compared,
/// not to be opened: the current folder need not be reachable by its name, or have one any more.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    const HERE: &str = "/proc/self/cwd";
    let here = || std::fs::read_link(HERE).unwrap_or_else(|_| HERE.into());
    std::path::absolute(path).unwrap_or_else(|_| here().join(path))
}

#[cfg(test)]
pub(crate) mod tests;
