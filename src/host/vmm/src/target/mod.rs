//! The files that a command makes. Nothing half-written is ever seen under the final name.
//!
//! A new file, or one that replaces an existing one, is written without a name (or under a hidden one) in its
//! folder ([`made`]), and published in one step when it is complete. The one who publishes is a small process that is made
//! before the lock-down and does nothing until it is told ([`publisher`]): the process that serves the guest can neither
//! name nor rename a file. When that process dies, of whatever cause, what is not published goes.
//!
//! An image may be several files: the publisher makes the others, by names that it makes itself, and publishes all of
//! them together.

mod made;
mod publisher;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::locks::{self, Locked};
use made::Made;
pub use publisher::Maker;
use publisher::Publisher;

/// How a target's writes reach the disk (`-t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// `none`, `directsync`: past the page cache.
    pub direct: bool,
    /// `writethrough`, `directsync`: every write is stable before it is done.
    pub sync: bool,
    /// `unsafe`: flushes do nothing.
    pub ignore_flush: bool,
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
        Some(Self { direct, sync, ignore_flush })
    }

    fn flags(self) -> i32 {
        (if self.direct { libc::O_DIRECT } else { 0 }) | if self.sync { libc::O_DSYNC } else { 0 }
    }
}

/// Opens an existing file or device; without `O_DIRECT` where its file system does not take it.
///
/// # Errors
/// The kernel's.
pub fn open(path: &Path, write: bool, cache: Cache) -> io::Result<File> {
    let with = |flags| {
        let quiet = libc::O_NOCTTY | libc::O_NONBLOCK;
        File::options().read(true).write(write).custom_flags(flags | quiet).open(path)
    };
    match with(cache.flags()) {
        Err(error) if cache.direct && error.raw_os_error() == Some(libc::EINVAL) => {
            with(Cache { direct: false, ..cache }.flags())
        }
        other => other,
    }
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
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A target that is being written.
#[derive(Debug)]
pub struct Target {
    publisher: Option<Publisher>,
}

impl Target {
    /// Makes the file that will be `path`. The boolean: it reads as zeroes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn create(path: &Path, cache: Cache) -> Result<(Self, File, bool), Error> {
        match Made::new(path, cache)? {
            Made::Device(file) => Ok((Self { publisher: None }, file, false)),
            made => {
                let file = made.file().try_clone()?;
                Ok((Self { publisher: Some(Publisher::start(made, path, cache)?) }, file, true))
            }
        }
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
        let file = open(path, true, cache)?;
        let kind = file.metadata()?.file_type();
        if !(kind.is_file() || kind.is_block_device()) {
            return Err(Error::WrongType);
        }
        lock(file)
    }

    /// Publishes it under its name, with the files beside it.
    ///
    /// # Errors
    /// The kernel's; nothing is published then.
    pub fn publish(self) -> io::Result<()> {
        self.publisher.map_or(Ok(()), Publisher::publish)
    }
}

fn lock(file: File) -> Result<File, Error> {
    locks::lock_for_write(&file).map_err(Error::Locked)?;
    Ok(file)
}

/// The path, absolute, for resolving what an image names against; without asking for the file itself.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
mod tests;
