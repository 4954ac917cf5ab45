//! Following a name over symbolic links, one step at a time.
//!
//! Only what lies in an allowed folder is looked at, and only a link that lies in one is read; what lies elsewhere is
//! taken by its letters, so that nobody gets to know what is there. Nothing rests on this alone: what it comes to is opened
//! below an allowed folder's own descriptor, and the kernel follows no link there. Whatever is exchanged meanwhile, no
//! file outside is opened.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use instar_abi::ring::Status;
use rustix::fs::{FileType, Mode as Permissions, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{No, Root};
use crate::links::{LINKS_MAX, are_the_kernels, refuse_planted};

/// Where a name leads.
pub struct Way {
    /// The name itself: its folder is without any link.
    pub named: PathBuf,
    /// The end. No link was found on the way to it, as far as it lies in an allowed folder.
    pub to: PathBuf,
}

/// Follows the path, which is absolute. Where it ends too early: why, and where that was.
pub fn follow(path: &Path, roots: &[&Root]) -> Result<Way, (No, PathBuf)> {
    let mut walk = Walk { roots, at: PathBuf::from("/"), folder: None, rest: Vec::new(), links: 0 };
    walk.turn(path);
    let way = walk.go();
    way.map_err(|no| (no, walk.at))
}

enum Part {
    Up,
    Name(OsString),
}

enum Step {
    /// A link, and what it says.
    Link(PathBuf),
    /// No link; looked at, if it lies in an allowed folder.
    Plain(Option<OwnedFd>),
}

struct Walk<'r> {
    roots: &'r [&'r Root],
    /// Where it is.
    at: PathBuf,
    /// The same, if that is in an allowed folder and was looked at. It need not be a folder.
    folder: Option<OwnedFd>,
    /// What is left, the next one last.
    rest: Vec<Part>,
    links: usize,
}

impl Walk<'_> {
    fn go(&mut self) -> Result<Way, No> {
        let mut named = None;
        while let Some(part) = self.rest.pop() {
            match part {
                Part::Up => self.up()?,
                Part::Name(name) => {
                    let step = self.look(&name);
                    // The first time that nothing is left is at the end of the name itself.
                    if self.rest.is_empty() && named.is_none() {
                        named = Some(self.at.join(&name));
                    }
                    match step {
                        Ok(Step::Link(to)) => self.turn(&to),
                        Ok(Step::Plain(seen)) => self.down(&name, seen),
                        Err(no) => {
                            self.at.push(name);
                            return Err(no);
                        }
                    }
                }
            }
        }
        Ok(Way { named: named.unwrap_or_else(|| self.at.clone()), to: self.at.clone() })
    }

    /// From here on, to what a link says.
    fn turn(&mut self, to: &Path) {
        if to.is_absolute() {
            (self.at, self.folder) = (PathBuf::from("/"), None);
        }
        self.rest.extend(to.components().rev().filter_map(|component| match component {
            Component::Normal(name) => Some(Part::Name(name.to_os_string())),
            Component::ParentDir => Some(Part::Up),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        }));
    }

    fn down(&mut self, name: &OsStr, seen: Option<OwnedFd>) {
        self.at.push(name);
        self.folder = seen;
        // The user's name of an allowed folder is as good as its own.
        if let Some(root) = self.roots.iter().find(|root| root.alias.as_ref() == Some(&self.at)) {
            (self.at, self.folder) = (root.path.clone(), None);
        }
    }

    /// What a `..` leaves is an allowed folder, one in it or one above: of others nobody knows whether they are links.
    fn up(&mut self) -> Result<(), No> {
        if let Some(folder) = self.folder()? {
            let stat = rustix::fs::fstat(folder).map_err(failed)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Err(failed(Errno::NOTDIR));
            }
        } else if !self.roots.iter().any(|root| root.path.starts_with(&self.at)) {
            self.at.push("..");
            return Err(Status::Refused.into());
        }
        self.at.pop();
        self.folder = None;
        Ok(())
    }

    /// Where it is, if that is in an allowed folder.
    fn folder(&mut self) -> Result<Option<&OwnedFd>, No> {
        if self.folder.is_none() {
            let Some(root) = self.roots.iter().find(|root| self.at.starts_with(&root.path)) else { return Ok(None) };
            let rest = self.at.strip_prefix(&root.path).ok().filter(|rest| !rest.as_os_str().is_empty());
            self.folder = Some(open(&root.fd, rest.unwrap_or(Path::new(".")), OFlags::DIRECTORY)?);
        }
        Ok(self.folder.as_ref())
    }

    fn look(&mut self, name: &OsStr) -> Result<Step, No> {
        let links = self.links;
        let Some(folder) = self.folder()? else { return Ok(Step::Plain(None)) };
        let seen = open(folder.as_fd(), Path::new(name), OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&seen).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(Step::Plain(Some(seen)));
        }
        if links == LINKS_MAX {
            return Err(failed(Errno::LOOP));
        }
        refuse_planted(folder, &stat).map_err(|error| failed_in(&error))?;
        if are_the_kernels(folder).map_err(|error| failed_in(&error))? {
            return Err(Status::Refused.into());
        }
        let to = rustix::fs::readlinkat(&seen, c"", Vec::new()).map_err(failed)?;
        self.links += 1;
        Ok(Step::Link(OsString::from_vec(to.into_bytes()).into()))
    }
}

/// Looks at what is there, without following any link.
fn open(folder: impl AsFd, name: &Path, more: OFlags) -> Result<OwnedFd, No> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        return match rustix::fs::openat2(&folder, name, flags, Permissions::empty(), resolve) {
            Ok(fd) => Ok(fd),
            Err(Errno::AGAIN | Errno::INTR) => continue,
            // There was no link a moment ago.
            Err(Errno::XDEV | Errno::LOOP) => Err(Status::Refused.into()),
            Err(errno) => Err(failed(errno)),
        };
    }
}

fn failed(errno: Errno) -> No {
    No { status: Status::Io, errno: errno.raw_os_error().cast_unsigned() }
}

fn failed_in(error: &io::Error) -> No {
    No { status: Status::Io, errno: error.raw_os_error().unwrap_or(libc::EIO).cast_unsigned() }
}
