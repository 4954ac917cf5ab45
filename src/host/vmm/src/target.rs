//! The file that a command makes. Nothing half-written is ever seen under the final name.
//!
//! A new file, or one that replaces an existing one, is written without a name (or under a hidden one) in its
//! folder, and published in one step when it is complete. The one who publishes is a small process that is made before
//! the lock-down and does nothing until it is told: the process that serves the guest can neither name
//! nor rename a file. When that process dies, of whatever cause, what is not published goes.

use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode as Permissions, OFlags};

use crate::locks;

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
    Locked(String),
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
    /// An existing file that is written where it is, because its folder cannot be written: emptied on failure.
    in_place: Option<File>,
    /// The file that is to be replaced, with its locks: nobody may use it until it is.
    _replaced: Option<File>,
}

impl Target {
    /// Makes the file that will be `path`. The boolean: it reads as zeroes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn create(path: &Path, cache: Cache) -> Result<(Self, File, bool), Error> {
        let existing = match std::fs::metadata(path) {
            Ok(meta) => Some(meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let mut replaced = None;
        if let Some(meta) = &existing {
            if meta.file_type().is_block_device() {
                let file = Self::lock(open(path, true, cache)?)?;
                return Ok((Self { publisher: None, in_place: None, _replaced: None }, file, false));
            }
            if meta.is_dir() {
                return Err(io::Error::from_raw_os_error(libc::EISDIR).into());
            }
            if !meta.is_file() {
                return Err(Error::WrongType);
            }
            replaced = Some(Self::lock(open(path, true, cache)?)?);
        }
        // A symbolic link is followed: its target is what is made or replaced.
        let real = if existing.is_some() { std::fs::canonicalize(path)? } else { follow(path)? };
        match Draft::new(&real, existing.as_ref(), cache) {
            Ok((draft, file)) => {
                let publisher = draft.into_process()?;
                Ok((Self { publisher: Some(publisher), in_place: None, _replaced: replaced }, file, true))
            }
            Err(error) => {
                let file = replaced.ok_or(error)?;
                file.set_len(0)?;
                let in_place = Some(file.try_clone()?);
                Ok((Self { publisher: None, in_place, _replaced: None }, file, true))
            }
        }
    }

    fn lock(file: File) -> Result<File, Error> {
        locks::lock_for_write(&file).map_err(|locked| Error::Locked(locked.0))?;
        Ok(file)
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
        Self::lock(file)
    }

    /// Publishes it under its name.
    ///
    /// # Errors
    /// The kernel's; nothing is published then.
    pub fn publish(mut self) -> io::Result<()> {
        self.in_place = None;
        let Some(mut publisher) = self.publisher.take() else { return Ok(()) };
        publisher.line.write_all(b"p")?;
        let mut errno = [0; 4];
        publisher.line.read_exact(&mut errno)?;
        match i32::from_le_bytes(errno) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What was to be written in place and is not complete must not look whole.
        if let Some(file) = &self.in_place {
            let _ = file.set_len(0);
        }
    }
}

/// The process that publishes, as its maker sees it.
#[derive(Debug)]
struct Publisher {
    line: UnixStream,
    pid: libc::pid_t,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Without a word from here it removes what it made, and ends: when this program ends, all is done.
        let _ = self.line.shutdown(std::net::Shutdown::Both);
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

/// A file without its final name.
struct Draft {
    folder: OwnedFd,
    name: CString,
    /// The hidden name; none for a file without any.
    hidden: Option<CString>,
    file: File,
}

impl Draft {
    fn new(path: &Path, replaces: Option<&Metadata>, cache: Cache) -> io::Result<(Self, File)> {
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
        if let Some(meta) = replaces {
            let adopted = std::os::unix::fs::fchown(&file, Some(meta.uid()), Some(meta.gid()))
                .and_then(|()| file.set_permissions(meta.permissions()));
            if let Err(error) = adopted {
                if let Some(hidden) = &hidden {
                    let _ = rustix::fs::unlinkat(&folder, hidden, AtFlags::empty());
                }
                return Err(error);
            }
        }
        let name = CString::new(name.as_bytes())?;
        let ours = file.try_clone()?;
        Ok((Self { folder, name, hidden, file }, ours))
    }

    /// Leaves the rest to a process of its own.
    fn into_process(self) -> io::Result<Publisher> {
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: the caller has one thread still; the child goes on with a copy of everything and ends in `_exit`.
        match unsafe { libc::fork() } {
            -1 => {
                self.forget();
                Err(io::Error::last_os_error())
            }
            0 => {
                drop(ours);
                self.wait(theirs)
            }
            pid => Ok(Publisher { line: ours, pid }),
        }
    }

    fn forget(&self) {
        if let Some(hidden) = &self.hidden {
            let _ = rustix::fs::unlinkat(&self.folder, hidden, AtFlags::empty());
        }
    }

    fn wait(self, mut told: UnixStream) -> ! {
        // What the terminal sends is for the one that works; this one ends when that one does.
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE, libc::SIGUSR1] {
            // SAFETY: ignoring a signal needs no handler.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        let mut word = [0];
        if matches!(told.read(&mut word), Ok(1)) {
            let errno = match self.publish() {
                Ok(()) => 0,
                Err(error) => {
                    self.forget();
                    error.raw_os_error()
                }
            };
            let _ = told.write_all(&errno.to_le_bytes());
        } else {
            self.forget();
        }
        // SAFETY: ends this process at once; nothing of it is shared that would want an orderly end.
        unsafe { libc::_exit(0) }
    }

    fn publish(&self) -> Result<(), rustix::io::Errno> {
        let Some(hidden) = &self.hidden else {
            let link = |name: &CString| {
                let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(rustix::fs::CWD, source, &self.folder, name, AtFlags::SYMLINK_FOLLOW)
            };
            return match link(&self.name) {
                Err(rustix::io::Errno::EXIST) => {
                    let hidden = hidden_name(OsStr::from_bytes(self.name.as_bytes()));
                    link(&hidden)?;
                    self.rename(&hidden)
                }
                other => other,
            };
        };
        self.rename(hidden)
    }

    fn rename(&self, hidden: &CString) -> Result<(), rustix::io::Errno> {
        rustix::fs::renameat(&self.folder, hidden, &self.folder, &self.name).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(&self.folder, hidden, AtFlags::empty());
        })
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
        Err(rustix::io::Errno::INVAL) if cache.direct => {
            let _ = rustix::fs::unlinkat(folder, &hidden, AtFlags::empty());
            with(Cache { direct: false, ..cache })?
        }
        other => other?,
    };
    Ok((File::from(file), Some(hidden)))
}

fn hidden_name(name: &OsStr) -> CString {
    const NAME_MAX: usize = 255;
    let mut bytes = b".".to_vec();
    let suffix = format!(".instar-{}", std::process::id());
    bytes.extend(name.as_bytes().iter().take(NAME_MAX - 1 - suffix.len()));
    bytes.extend(suffix.bytes());
    CString::new(bytes).unwrap_or_default()
}

/// The path, absolute, for resolving what an image names against; without asking for the file itself.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("instar-target-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        path
    }

    #[test]
    fn a_target_appears_when_it_is_published_and_not_before() {
        let folder = folder("publish");
        let path = folder.join("new");
        let (target, file, fresh) = Target::create(&path, Cache::default()).expect("a new file");
        file.write_all_at(b"content", 0).expect("room on the disk");
        assert!(fresh && !path.exists());
        target.publish().expect("published");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"content");
        std::fs::remove_dir_all(folder).expect("made here");
    }

    #[test]
    fn an_existing_file_stays_until_then_and_keeps_its_rights() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder("replace");
        let path = folder.join("old");
        std::fs::write(&path, b"old").expect("room on the disk");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("our own file");
        let (target, file, _) = Target::create(&path, Cache::default()).expect("a new file");
        file.write_all_at(b"new", 0).expect("room on the disk");
        drop((target, file));
        assert_eq!(std::fs::read(&path).expect("it is there"), b"old");
        let (target, file, _) = Target::create(&path, Cache::default()).expect("a new file");
        file.write_all_at(b"new", 0).expect("room on the disk");
        target.publish().expect("published");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"new");
        assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&folder).expect("it is there").count(), 1);
        std::fs::remove_dir_all(folder).expect("made here");
    }

    #[test]
    fn a_link_is_followed_whether_its_target_is_there_or_not() {
        let folder = folder("link");
        let link = folder.join("link");
        std::os::unix::fs::symlink("real", &link).expect("a link");
        for text in [b"one", b"two"] {
            let (target, file, _) = Target::create(&link, Cache::default()).expect("a new file");
            file.write_all_at(text, 0).expect("room on the disk");
            target.publish().expect("published");
            assert!(std::fs::symlink_metadata(&link).expect("it is there").is_symlink());
            assert_eq!(std::fs::read(folder.join("real")).expect("it is there"), text);
        }
        std::os::unix::fs::symlink("self", folder.join("self")).expect("a link");
        assert!(Target::create(&folder.join("self"), Cache::default()).is_err());
        std::fs::remove_dir_all(folder).expect("made here");
    }

    #[test]
    fn a_file_with_several_names_is_written_where_it_is() {
        let folder = folder("names");
        let (one, other) = (folder.join("one"), folder.join("other"));
        std::fs::write(&one, b"old").expect("room on the disk");
        std::fs::hard_link(&one, &other).expect("a link");
        let (target, file, fresh) = Target::create(&one, Cache::default()).expect("it is there");
        file.write_all_at(b"new", 0).expect("room on the disk");
        assert!(fresh);
        target.publish().expect("nothing to do");
        assert_eq!(std::fs::read(&other).expect("it is there"), b"new");
        drop(file);
        let (target, file, _) = Target::create(&one, Cache::default()).expect("it is there");
        file.write_all_at(b"half", 0).expect("room on the disk");
        drop(target);
        assert_eq!(std::fs::read(&other).expect("it is there"), b"", "what is not whole does not look so");
        std::fs::remove_dir_all(folder).expect("made here");
    }

    #[test]
    fn a_target_in_use_is_refused_and_so_is_what_is_no_file() {
        let folder = folder("refused");
        let path = folder.join("used");
        std::fs::write(&path, b"old").expect("room on the disk");
        let reader = File::open(&path).expect("it is there");
        locks::lock_for_read(&reader).expect("nobody else");
        assert!(matches!(Target::create(&path, Cache::default()), Err(Error::Locked(_))));
        assert!(matches!(Target::existing(&path, Cache::default()), Err(Error::Locked(_))));
        assert!(matches!(Target::create(Path::new("/dev/null"), Cache::default()), Err(Error::WrongType)));
        assert!(matches!(Target::create(&folder, Cache::default()), Err(Error::Io(_))));
        assert!(matches!(Target::create(&folder.join("no/such"), Cache::default()), Err(Error::Io(_))));
        assert_eq!(std::fs::read(&path).expect("it is there"), b"old");
        std::fs::remove_dir_all(folder).expect("made here");
    }
}
