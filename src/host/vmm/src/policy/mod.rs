//! Which files an image may name.
//!
//! A name is judged before the file system is asked anything: made absolute against the directory of the
//! image that has it, its `.` and `..` folded, it must lie below that directory or one that was allowed. Only then is it
//! opened, below the allowed directory's own descriptor, and the kernel sees to it that no symbolic link leads out
//! (`RESOLVE_BENEATH`). So a refusal never tells whether the target exists.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use instar_abi::ring::{Role, Status};
use rustix::fs::{Mode as Permissions, OFlags, ResolveFlags};

use crate::device::{Device, Mode};
use crate::server::Slot;

/// Deepest chain.
const CHAIN_MAX: usize = 200;

/// The open policy for names that come from images. Names given on the command line never pass here.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `--no-backing`: none at all.
    pub deny_all: bool,
    /// Directories below which files may be opened, besides the naming image's own.
    pub allowed: Vec<PathBuf>,
    /// `-U`: take no locks.
    pub force_share: bool,
}

/// Why a name was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct No {
    /// For the reply.
    pub status: Status,
    /// With [`Status::Io`].
    pub errno: u32,
}

impl From<Status> for No {
    fn from(status: Status) -> Self {
        Self { status, errno: 0 }
    }
}

/// The policy at work: directories opened before the lock-down.
#[derive(Debug)]
pub struct Gate {
    policy: Policy,
    directories: Vec<(PathBuf, OwnedFd)>,
}

/// Folds `.`, `..` and doubled slashes by the letters alone. `path` is absolute.
fn fold(path: &Path) -> PathBuf {
    let mut folded = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => folded.push(name),
            Component::ParentDir => {
                folded.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    folded
}

/// The path that a stored name means, or `None` for a name that is no plain path.
fn plain(name: &[u8]) -> Option<&Path> {
    let name = name.strip_prefix(b"file:").unwrap_or(name);
    let protocol = name.iter().find(|b| matches!(b, b':' | b'/')) == Some(&b':');
    (!name.is_empty() && !name.contains(&0) && !protocol).then(|| Path::new(std::ffi::OsStr::from_bytes(name)))
}

impl Gate {
    /// Opens the directories: the devices' own and the allowed ones. One that cannot be opened allows nothing.
    #[must_use]
    pub fn new(policy: Policy, devices: &[Device]) -> Self {
        let own =
            devices.iter().filter(|d| d.mode == Mode::Read).filter_map(|d| d.path.parent().map(Path::to_path_buf));
        let mut directories: Vec<(PathBuf, OwnedFd)> = Vec::new();
        if !policy.deny_all {
            for path in own.chain(policy.allowed.iter().cloned()).map(|p| fold(&p)) {
                if directories.iter().any(|(have, _)| *have == path) {
                    continue;
                }
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                if let Ok(fd) = rustix::fs::open(&path, flags, Permissions::empty()) {
                    directories.push((path, fd));
                }
            }
        }
        Self { policy, directories }
    }

    /// The directories that may be reached.
    pub fn directories(&self) -> impl Iterator<Item = &OwnedFd> {
        self.directories.iter().map(|(_, fd)| fd)
    }

    /// Opens what the image on the first device of `chain` names; `chain` goes on with those that led to it.
    pub fn open(&self, name: &[u8], role: Role, write: bool, chain: &[Arc<Slot>]) -> Result<Device, No> {
        let above = chain.first().ok_or(Status::BadDevice)?;
        let name = plain(name).ok_or(Status::Refused)?;
        let path = fold(&above.device.path.parent().ok_or(Status::Refused)?.join(name));
        let (directory, rest) = self
            .directories
            .iter()
            .filter_map(|(root, fd)| Some((fd, path.strip_prefix(root).ok()?)))
            .find(|(_, rest)| !rest.as_os_str().is_empty())
            .ok_or(Status::Refused)?;
        if chain.len() >= CHAIN_MAX {
            return Err(Status::TooMany.into());
        }
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(directory, rest, flags, Permissions::empty(), beneath) {
            Ok(fd) => File::from(fd),
            // A link that leads out is as if it were not there: the same words as for any name outside.
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::LOOP) => return Err(Status::Refused.into()),
            Err(errno) => return Err(No { status: Status::Io, errno: errno.raw_os_error().cast_unsigned() }),
        };
        self.examine(&file, role, chain)?;
        let mode = if write { Mode::Write { growth_limit_bytes: i64::MAX as u64 } } else { Mode::Read };
        Ok(Device { file, path, mode, fresh: false, direct: false, ignore_flush: false })
    }

    fn examine(&self, file: &File, role: Role, chain: &[Arc<Slot>]) -> Result<(), No> {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata().map_err(|_| Status::WrongType)?;
        let block = meta.file_type().is_block_device();
        let pseudo = rustix::fs::fstatfs(file).is_ok_and(|fs| matches!(fs.f_type, PROC_MAGIC | SYSFS_MAGIC));
        if !(meta.file_type().is_file() || block) || pseudo {
            return Err(Status::WrongType.into());
        }
        let identity = if block { (u64::MAX, meta.rdev()) } else { (meta.dev(), meta.ino()) };
        if role == Role::Backing && chain.iter().any(|slot| slot.identity == identity) {
            return Err(Status::Loop.into());
        }
        let _ = self.policy.force_share;
        Ok(())
    }
}

const PROC_MAGIC: i64 = 0x9fa0;
const SYSFS_MAGIC: i64 = 0x6265_6572;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_fold_by_the_letters() {
        assert_eq!(fold(Path::new("/a/./b/../../../c//d")), Path::new("/c/d"));
    }

    #[test]
    fn only_plain_paths_are_names() {
        for name in [&b"json:{}"[..], b"nbd:unix:/x", b"", b"a\0b", b"http://x/y", b"rbd:a"] {
            assert_eq!(plain(name), None, "{name:?}");
        }
        for name in [&b"a/b:c"[..], b"./a:b", b"file:a", b"/x"] {
            assert!(plain(name).is_some(), "{name:?}");
        }
    }
}
