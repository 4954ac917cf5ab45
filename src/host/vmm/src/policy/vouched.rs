//! Files that the user named on the command line: where an image names the same file, by whatever name, it may be opened.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode as Permissions, OFlags, ResolveFlags};

use super::{Root, examine, fold};

/// One of them. It is opened anew where an image names it, below its own folder like any other.
#[derive(Debug)]
pub struct Vouched {
    /// Its folder, named without any link.
    pub root: Root,
    /// Its name there.
    pub name: OsString,
    /// The file, only to be told from others.
    pub file: OwnedFd,
    identity: (u64, u64),
}

impl Vouched {
    /// None if there is no such file, or none that an image may name. `writable`: it is what a commit may go into.
    pub fn new(path: &Path, writable: bool) -> Option<Self> {
        let path = std::fs::canonicalize(path).ok()?;
        let (folder, name) = (path.parent()?.to_path_buf(), path.file_name()?.to_os_string());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&folder, flags | OFlags::DIRECTORY, Permissions::empty()).ok()?;
        let file = File::from(rustix::fs::openat(&fd, &name, flags | OFlags::NOFOLLOW, Permissions::empty()).ok()?);
        let identity = examine(&file).ok()?;
        let root = Root { path: folder, alias: None, fd, for_all: true, writable, vouched: true };
        Some(Self { root, name, file: file.into(), identity })
    }

    /// It is this one.
    pub fn is(&self, identity: (u64, u64)) -> bool {
        self.identity == identity
    }
}

/// The one to which `path` leads; `straight`: its letters alone say where. It is looked at and not opened, so nothing happens to what else it may be; whoever asked
/// is told the same about all else.
pub fn find<'v>(vouched: &'v [Vouched], path: &Path, straight: bool) -> Option<&'v Vouched> {
    if vouched.is_empty() {
        return None;
    }
    let folded = fold(path);
    let same =
        |vouched: &&Vouched| folded.strip_prefix(&vouched.root.path).is_ok_and(|rest| rest.as_os_str() == vouched.name);
    if let Some(same) = vouched.iter().find(same).filter(|_| straight) {
        return Some(same);
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let seen = rustix::fs::openat2(CWD, path, flags, Permissions::empty(), ResolveFlags::NO_MAGICLINKS).ok()?;
    let seen = examine(&File::from(seen)).ok()?;
    vouched.iter().find(|vouched| vouched.is(seen))
}
