//! Whose word a file is: not only its owner's, but that of everybody whose link leads to it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// What the kernel follows at most.
const LINKS_MAX: usize = 40;

/// Opens what is at `rest` below `home` to be read, without waiting for anybody. Nothing if somebody owns a link on the way
/// who is not `trusted`.
///
/// # Errors
/// The kernel's.
pub fn open(home: &Path, rest: &Path, trusted: impl Fn(u32) -> bool) -> io::Result<Option<File>> {
    let mut folder = open_folder(home)?;
    let mut left = parts(rest);
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        let seen =
            rustix::fs::openat(&folder, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&seen)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP.into());
            }
            if !trusted(stat.st_uid) {
                return Ok(None);
            }
            let to = rustix::fs::readlinkat(&seen, c"", Vec::new())?;
            let to = Path::new(OsStr::from_bytes(to.as_bytes()));
            if to.is_absolute() {
                folder = open_folder(Path::new("/"))?;
            }
            let mut way = parts(to);
            way.append(&mut left);
            left = way;
        } else if left.is_empty() {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            return Ok(Some(rustix::fs::openat(&folder, &name, flags, Mode::empty())?.into()));
        } else {
            folder = seen;
        }
    }
    Err(Errno::ISDIR.into())
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}
