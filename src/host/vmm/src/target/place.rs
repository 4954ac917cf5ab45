//! Where a target is. There is one look-up: the folder that it found stays open, and all that is done afterwards is done
//! to a name in that folder.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::{Cache, Error};
use crate::links::{LINKS_MAX, are_the_kernels, refuse_planted};

/// A name in a folder: no symbolic link, if anything at all.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub folder: OwnedFd,
    /// The name.
    pub name: CString,
    /// It is the kernel's own name of an open file (`/proc/self/fd/3`), which no other file can get.
    pub is_open_file: bool,
}

impl Place {
    /// Follows the path, and links at its end.
    ///
    /// # Errors
    /// The kernel's; `EACCES` for a link that somebody else put into a folder for all.
    pub fn find(path: &Path) -> io::Result<Self> {
        let (parent, mut name) = split(path)?;
        let mut folder = open_folder(rustix::fs::CWD, &parent)?;
        for _ in 0..LINKS_MAX {
            let is_link = match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if kind(&stat) == FileType::Symlink => {
                    refuse_planted(&folder, &stat)?;
                    true
                }
                Ok(_) | Err(Errno::NOENT) => false,
                Err(errno) => return Err(errno.into()),
            };
            let is_open_file = is_link && are_the_kernels(&folder)?;
            if !is_link || is_open_file {
                return Ok(Self { folder, name, is_open_file });
            }
            let to = rustix::fs::readlinkat(&folder, &name, Vec::new())?;
            let (parent, next) = split(Path::new(OsStr::from_bytes(to.as_bytes())))?;
            (folder, name) = (open_folder(&folder, &parent)?, next);
        }
        Err(Errno::LOOP.into())
    }

    /// Opens what is there to be written: a regular file or a block device.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(&self, cache: Cache) -> Result<Option<File>, Error> {
        let follow = if self.is_open_file { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        // Looked at before it is opened: that could have an effect.
        match rustix::fs::statat(&self.folder, &self.name, follow) {
            Err(Errno::NOENT) => return Ok(None),
            stat => is_data(kind(&stat?))?,
        }
        let nofollow = if self.is_open_file { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK | nofollow;
        let file = cache.with(|more| rustix::fs::openat(&self.folder, &self.name, flags | more, Mode::empty()))?;
        let file = File::from(file);
        // Another one, meanwhile?
        is_data(kind(&rustix::fs::fstat(&file)?))?;
        if file.metadata()?.file_type().is_block_device() && is_read_only(&file) {
            return Err(Error::ReadOnlyDevice);
        }
        Ok(Some(file))
    }

    /// What is under the name now: device and inode number.
    ///
    /// # Errors
    /// The kernel's.
    pub fn there(&self) -> Result<Option<(u64, u64)>, Errno> {
        match rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            stat => Ok(Some(identity(&stat?))),
        }
    }
}

/// Device and inode number.
pub fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_data(kind: FileType) -> Result<(), Error> {
    match kind {
        FileType::RegularFile | FileType::BlockDevice => Ok(()),
        FileType::Directory => Err(io::Error::from(Errno::ISDIR).into()),
        _ => Err(Error::WrongType),
    }
}

/// A path's folder, and the name in it.
fn split(path: &Path) -> io::Result<(CString, CString)> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(Errno::NOENT.into());
    }
    let (parent, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
        None => (&b"."[..], bytes),
        Some(0) => (&b"/"[..], &bytes[1..]),
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
    };
    if matches!(name, b"" | b"." | b"..") {
        return Err(Errno::ISDIR.into());
    }
    Ok((CString::new(parent)?, CString::new(name)?))
}

/// A folder, for what is in it.
pub fn open_folder(from: impl AsFd, path: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(from, path, flags, Mode::empty())?)
}

/// Whether a block device takes no writes.
fn is_read_only(device: &File) -> bool {
    const BLKROGET: libc::c_ulong = 0x125e;
    let mut read_only: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the request fills one number.
    unsafe { libc::ioctl(device.as_raw_fd(), BLKROGET, &raw mut read_only) == 0 && read_only != 0 }
}
