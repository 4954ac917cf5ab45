//! A file that is not complete yet: where it is until then, and how it gets its name.

use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, Mode as Permissions, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Cache, Error, lock, open};

/// A file that is being made.
pub enum Made {
    /// A block device, written as it is.
    Device(File),
    /// An existing file that is written where it is, because its folder cannot be written: emptied on failure.
    InPlace(File),
    /// A file without its final name.
    Draft(Draft),
}

impl Made {
    /// The file that will be `path`.
    pub fn new(path: &Path, cache: Cache) -> Result<Self, Error> {
        let existing = match std::fs::metadata(path) {
            Ok(meta) => Some(meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let mut replaced = None;
        if let Some(meta) = &existing {
            if meta.file_type().is_block_device() {
                return Ok(Self::Device(lock(open(path, true, cache)?)?));
            }
            if meta.is_dir() {
                return Err(io::Error::from_raw_os_error(libc::EISDIR).into());
            }
            if !meta.is_file() {
                return Err(Error::WrongType);
            }
            replaced = Some(lock(open(path, true, cache)?)?);
        }
        // A symbolic link is followed: its target is what is made or replaced.
        let real = if existing.is_some() { std::fs::canonicalize(path)? } else { follow(path)? };
        match Draft::new(&real, existing.as_ref(), cache) {
            Ok(draft) => Ok(Self::Draft(Draft { replaced, ..draft })),
            Err(error) => {
                let file = replaced.ok_or(error)?;
                file.set_len(0)?;
                Ok(Self::InPlace(file))
            }
        }
    }

    /// The file itself.
    pub const fn file(&self) -> &File {
        match self {
            Self::Device(file) | Self::InPlace(file) => file,
            Self::Draft(draft) => &draft.file,
        }
    }

    /// The folder that it is made in.
    pub fn folder(&self) -> Option<BorrowedFd<'_>> {
        if let Self::Draft(draft) = self { Some(draft.folder.as_fd()) } else { None }
    }

    fn as_draft(&mut self) -> Option<&mut Draft> {
        if let Self::Draft(draft) = self { Some(draft) } else { None }
    }

    /// Gives up what is not complete: it must not look whole.
    pub fn forget(&self) {
        match self {
            Self::Device(_) => {}
            Self::InPlace(file) => {
                let _ = file.set_len(0);
            }
            Self::Draft(draft) => draft.take_back(),
        }
    }
}

/// Publishes all of them or none; the first one, by which the others are found, comes last.
pub fn publish(files: &mut [Made]) -> Result<(), Errno> {
    let several = files.len() > 1;
    let mut drafts: Vec<&mut Draft> = files.iter_mut().rev().filter_map(Made::as_draft).collect();
    if several {
        // What can fail for lack of room fails while nothing has been replaced yet.
        drafts.iter_mut().try_for_each(|draft| draft.hide())?;
    }
    let count = drafts.len();
    for (index, draft) in drafts.iter_mut().enumerate() {
        draft.show(index + 1 == count)?;
    }
    for draft in drafts {
        draft.settle();
    }
    Ok(())
}

/// What is under the final name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// What was there before.
    No,
    /// This file; there was none, or it cannot come back.
    Yes,
    /// This file; the earlier one is under the hidden name.
    Exchanged,
}

/// A file without its final name.
pub struct Draft {
    folder: OwnedFd,
    name: CString,
    /// The hidden name; none for a file without any.
    hidden: Option<CString>,
    file: File,
    /// What it replaces, with its locks: nobody may use that until then.
    replaced: Option<File>,
    shown: Shown,
}

impl Draft {
    fn new(path: &Path, replaces: Option<&Metadata>, cache: Cache) -> io::Result<Self> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let nowhere = if path.as_os_str().is_empty() { libc::ENOENT } else { libc::EISDIR };
        let name = path.file_name().ok_or_else(|| io::Error::from_raw_os_error(nowhere))?;
        if replaces.is_some_and(|meta| meta.nlink() > 1) {
            // The other names must go on naming the same file.
            return Err(io::Error::from_raw_os_error(libc::EMLINK));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(parent, flags, Permissions::empty())?;
        let (file, hidden) = match nameless(&folder, cache) {
            Ok(file) => (file, None),
            Err(_) => named(&folder, name, cache)?,
        };
        let name = CString::new(name.as_bytes())?;
        let draft = Self { folder, name, hidden, file, replaced: None, shown: Shown::No };
        if let Some(meta) = replaces {
            let adopted = std::os::unix::fs::fchown(&draft.file, Some(meta.uid()), Some(meta.gid()))
                .and_then(|()| draft.file.set_permissions(meta.permissions()));
            adopted.inspect_err(|_| draft.take_back())?;
        }
        Ok(draft)
    }

    /// Gives a file without a name a hidden one.
    fn hide(&mut self) -> Result<(), Errno> {
        if self.hidden.is_none() {
            let hidden = hidden_name(OsStr::from_bytes(self.name.as_bytes()));
            self.link(&hidden)?;
            self.hidden = Some(hidden);
        }
        Ok(())
    }

    fn link(&self, name: &CString) -> Result<(), Errno> {
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, source, &self.folder, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Puts it under its final name. `for_good`: nothing that could fail comes after it.
    fn show(&mut self, for_good: bool) -> Result<(), Errno> {
        if self.hidden.is_none() {
            match self.link(&self.name) {
                Err(Errno::EXIST) => self.hide()?,
                other => {
                    self.shown = if other.is_ok() { Shown::Yes } else { Shown::No };
                    return other;
                }
            }
        }
        let Some(hidden) = &self.hidden else { return Err(Errno::NOENT) };
        if self.replaced.is_some() && !for_good {
            let exchange = RenameFlags::EXCHANGE;
            if rustix::fs::renameat_with(&self.folder, hidden, &self.folder, &self.name, exchange).is_ok() {
                self.shown = Shown::Exchanged;
                return Ok(());
            }
            // A file system that cannot exchange names, or the earlier file is gone meanwhile.
        }
        rustix::fs::renameat(&self.folder, hidden, &self.folder, &self.name)?;
        self.shown = Shown::Yes;
        self.hidden = None;
        Ok(())
    }

    /// The earlier file goes.
    fn settle(&mut self) {
        if self.shown == Shown::Exchanged {
            self.remove(self.hidden.as_ref());
        }
    }

    /// The folder gets to be as it was.
    fn take_back(&self) {
        if let (Shown::Exchanged, Some(hidden)) = (self.shown, &self.hidden) {
            let exchange = RenameFlags::EXCHANGE;
            if rustix::fs::renameat_with(&self.folder, hidden, &self.folder, &self.name, exchange).is_err() {
                // The hidden one is the earlier file.
                return;
            }
        }
        self.remove(if self.shown == Shown::Yes { Some(&self.name) } else { self.hidden.as_ref() });
    }

    fn remove(&self, name: Option<&CString>) {
        if let Some(name) = name {
            let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}

/// Where a name leads that may be a symbolic link to a file that is not there yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    const LINKS_MAX: usize = 40;
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&path) {
            Ok(to) => path = path.parent().map_or_else(|| to.clone(), |folder| folder.join(&to)),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

const PERMISSIONS: Permissions = Permissions::from_raw_mode(0o644);

fn nameless(folder: &OwnedFd, cache: Cache) -> io::Result<File> {
    // Publishing needs the descriptor's name in /proc.
    if !Path::new("/proc/self/fd").exists() {
        return Err(io::Error::from_raw_os_error(libc::ENOTSUP));
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::from_bits_retain(cache.flags() as u32);
    Ok(rustix::fs::openat(folder, ".", flags, PERMISSIONS).map(File::from)?)
}

fn named(folder: &OwnedFd, name: &OsStr, cache: Cache) -> io::Result<(File, Option<CString>)> {
    let hidden = hidden_name(name);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let with = |cache: Cache| {
        rustix::fs::openat(folder, &hidden, flags | OFlags::from_bits_retain(cache.flags() as u32), PERMISSIONS)
    };
    let file = match with(cache) {
        Err(Errno::INVAL) if cache.direct => {
            let _ = rustix::fs::unlinkat(folder, &hidden, AtFlags::empty());
            with(Cache { direct: false, ..cache })?
        }
        other => other?,
    };
    Ok((File::from(file), Some(hidden)))
}

/// A name that no other file of this process has.
fn hidden_name(name: &OsStr) -> CString {
    const NAME_MAX: usize = 255;
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut bytes = b".".to_vec();
    let suffix = format!(".instar-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    bytes.extend(name.as_bytes().iter().take(NAME_MAX - 1 - suffix.len()));
    bytes.extend(suffix.bytes());
    CString::new(bytes).unwrap_or_default()
}
