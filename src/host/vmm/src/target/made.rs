//! A file that is not complete yet: where it is until then, and how it gets its name.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode as Permissions, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::attributes::Attributes;
use super::copied::{self, Copied};
use super::keep::Keep;
use super::place::{Place, identity};
use super::swap::{self, Shown};
use super::{Cache, Error, lock};

/// A file that is being made.
pub enum Made {
    /// A block device, written as it is.
    Device(File),
    /// An existing file that is written where it is.
    InPlace {
        /// The file.
        file: File,
        /// Why.
        keep: Keep,
        /// It was emptied: what is not complete must not look whole.
        begun: bool,
    },
    /// An existing file that gets its content when all succeeded.
    Copied(Copied),
    /// A file without its final name.
    Draft(Draft),
}

impl Made {
    /// The file that will be `path`. `need`: bytes that will be written, as far as they are known.
    pub fn new(path: &Path, cache: Cache, need: u64) -> Result<Self, Error> {
        let place = Place::find(path)?;
        let Some(file) = place.open(cache)? else {
            return Ok(Self::Draft(Draft::new(place, None, cache)?));
        };
        // Locked first: what is found out after that is true of what will be replaced.
        let file = lock(file)?;
        if file.metadata()?.file_type().is_block_device() {
            return Ok(Self::Device(file));
        }
        let keep = match Keep::of(&place, &file, need)? {
            Some(keep) => keep,
            None => match Draft::new(place, Some(&file), cache) {
                Ok(draft) => return Ok(Self::Draft(Draft { replaced: Some(file), ..draft })),
                Err(_) => Keep::NoOther,
            },
        };
        Ok(Self::InPlace { file, keep, begun: false })
    }

    /// The same beside a new image, by a name that is not the user's own: nothing in it changes unless the command succeeds.
    pub fn beside(path: &Path, cache: Cache) -> Result<Self, Error> {
        match Self::new(path, cache, 0)? {
            Self::Device(_) => Err(Error::WrongType),
            Self::InPlace { file, keep, .. } if keep != Keep::Empty => {
                Ok(Self::Copied(Copied::new(path, file, cache)?))
            }
            made => Ok(made),
        }
    }

    /// The file itself.
    pub const fn file(&self) -> &File {
        match self {
            Self::Device(file) | Self::InPlace { file, .. } => file,
            Self::Copied(copied) => &copied.file,
            Self::Draft(draft) => &draft.file,
        }
    }

    /// What was in it is gone.
    pub const fn begin(&mut self) {
        if let Self::InPlace { begun, .. } = self {
            *begun = true;
        }
    }

    /// The folder that it is made in.
    pub fn folder(&self) -> Option<BorrowedFd<'_>> {
        if let Self::Draft(draft) = self { Some(draft.place.folder.as_fd()) } else { None }
    }

    const fn as_copied(&self) -> Option<&Copied> {
        if let Self::Copied(copied) = self { Some(copied) } else { None }
    }

    fn as_draft(&mut self) -> Option<&mut Draft> {
        if let Self::Draft(draft) = self { Some(draft) } else { None }
    }

    /// Gives up what is not complete: it must not look whole.
    pub fn forget(&self) {
        match self {
            Self::Device(_) | Self::Copied(_) => {}
            Self::InPlace { file, keep, begun } => {
                if *begun || *keep == Keep::Empty {
                    let _ = file.set_len(0);
                }
            }
            Self::Draft(draft) => draft.take_back(),
        }
    }
}

/// Publishes all of them or none; the first one, by which the others are found, comes last.
pub fn publish(files: &mut [Made]) -> Result<(), Errno> {
    let several = files.len() > 1;
    if several {
        // What can fail fails while nothing has been replaced yet, and nothing copied into what cannot be.
        for draft in files.iter_mut().filter_map(Made::as_draft) {
            draft.replaces()?;
            draft.hide()?;
        }
    }
    let copied = || files.iter().filter_map(Made::as_copied);
    copied::check_room(copied())?;
    for copied in copied() {
        copied.reserve()?;
    }
    for copied in copied() {
        copied.publish()?;
    }
    let mut drafts: Vec<&mut Draft> = files.iter_mut().rev().filter_map(Made::as_draft).collect();
    for draft in &mut drafts {
        draft.show(several)?;
    }
    for draft in drafts {
        draft.settle();
    }
    Ok(())
}

/// A file without its final name.
pub struct Draft {
    place: Place,
    /// The hidden name; none for a file without any.
    hidden: Option<CString>,
    file: File,
    /// The rights that it gets with its name: a file under a hidden one has none for others, and writing takes some away.
    rights: Option<Permissions>,
    /// What it replaces, with its locks: nobody may use that until then.
    replaced: Option<File>,
    shown: Shown,
}

impl Draft {
    fn new(place: Place, replaces: Option<&File>, cache: Cache) -> io::Result<Self> {
        let attributes = replaces.map(Attributes::of).transpose()?;
        let (file, hidden, rights) = match nameless(&place.folder, cache) {
            Ok(file) => (file, None, None),
            Err(_) => {
                let (file, hidden) = named(&place, cache)?;
                (file, Some(hidden), Some(rights_of_new(&place)))
            }
        };
        let mut draft = Self { place, hidden, file, rights, replaced: None, shown: Shown::No };
        if let Some(attributes) = attributes {
            attributes.give(&draft.file).inspect_err(|_| draft.take_back())?;
            draft.rights = Some(attributes.rights());
            if draft.hidden.is_some() {
                rustix::fs::fchmod(&draft.file, HIDDEN).inspect_err(|_| draft.take_back())?;
            }
        }
        Ok(draft)
    }

    /// Gives a file without a name a hidden one.
    fn hide(&mut self) -> Result<(), Errno> {
        if self.hidden.is_none() {
            self.hidden = Some(untaken(&self.place.name, |hidden| self.link(hidden))?.1);
        }
        Ok(())
    }

    fn link(&self, name: &CStr) -> Result<(), Errno> {
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, source, &self.place.folder, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Whether what it replaces is still there. What came to be there meanwhile nobody has looked at, nor locked: it stays.
    fn replaces(&self) -> Result<bool, Errno> {
        let Some(there) = self.place.there()? else { return Ok(false) };
        match &self.replaced {
            None => Err(Errno::EXIST),
            Some(file) if identity(&rustix::fs::fstat(file)?) == there => Ok(true),
            Some(_) => Err(Errno::STALE),
        }
    }

    /// Puts it under its final name. `undone`: that may have to be undone.
    fn show(&mut self, undone: bool) -> Result<(), Errno> {
        let replaces = self.replaces()?;
        if let Some(replaced) = self.replaced.as_ref().filter(|_| replaces) {
            // What somebody changed meanwhile, to close the file to others for example, holds.
            let given = Attributes::of(replaced).and_then(|now| now.renew(&self.file).map(|()| now.rights()));
            self.rights = Some(given.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?);
            self.keep_read_time();
        }
        if let Some(rights) = self.rights {
            rustix::fs::fchmod(&self.file, rights)?;
        }
        if self.hidden.is_none() && !replaces {
            self.link(&self.place.name)?;
            self.shown = Shown::New;
            return Ok(());
        }
        self.hide()?;
        let Some(hidden) = &self.hidden else { return Err(Errno::NOENT) };
        self.shown = match &self.replaced {
            Some(earlier) if replaces => swap::replace(&self.place, hidden, earlier, undone)?,
            // It is gone meanwhile, or there never was one.
            _ => swap::name(&self.place, hidden)?,
        };
        self.hidden = None;
        Ok(())
    }

    /// When the file was last read is not changed by writing to it.
    fn keep_read_time(&self) {
        if let Some(stat) = self.replaced.as_ref().and_then(|file| rustix::fs::fstat(file).ok()) {
            let last_access = Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec.cast_signed() };
            let last_modification = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
            // A file system without it has none to be kept.
            let _ = rustix::fs::futimens(&self.file, &Timestamps { last_access, last_modification });
        }
    }

    /// The earlier file goes.
    fn settle(&mut self) {
        if let Shown::Over(Some(earlier)) = &self.shown {
            self.remove(Some(earlier));
        }
    }

    /// The folder gets to be as it was.
    fn take_back(&self) {
        let Place { folder, name, .. } = &self.place;
        self.remove(self.hidden.as_ref());
        if self.shown == Shown::No {
            return;
        }
        // Unless somebody else has put another one there.
        let own = rustix::fs::fstat(&self.file).ok().map(|stat| identity(&stat));
        let is_own = self.place.there().is_ok_and(|there| there == own);
        match &self.shown {
            Shown::Over(Some(earlier)) if is_own => {
                // If that fails, the earlier file is there still, under its hidden name.
                let _ = rustix::fs::renameat(folder, earlier, folder, name);
            }
            Shown::Over(Some(earlier)) => self.remove(Some(earlier)),
            Shown::New => self.remove(Some(name).filter(|_| is_own)),
            Shown::No | Shown::Over(None) => {}
        }
    }

    fn remove(&self, name: Option<&CString>) {
        if let Some(name) = name {
            let _ = rustix::fs::unlinkat(&self.place.folder, name, AtFlags::empty());
        }
    }
}

const PERMISSIONS: Permissions = Permissions::from_raw_mode(0o644);
const HIDDEN: Permissions = Permissions::from_raw_mode(0o600);

/// A file without a name.
pub fn nameless(folder: &OwnedFd, cache: Cache) -> io::Result<File> {
    // Publishing needs the descriptor's name in /proc.
    if !Path::new("/proc/self/fd").exists() {
        return Err(io::Error::from_raw_os_error(libc::ENOTSUP));
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | cache.flags();
    Ok(rustix::fs::openat(folder, ".", flags, PERMISSIONS).map(File::from)?)
}

fn named(place: &Place, cache: Cache) -> io::Result<(File, CString)> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let (file, hidden) = untaken(&place.name, |hidden| {
        cache.with(|more| {
            rustix::fs::openat(&place.folder, hidden, flags | more, HIDDEN).inspect_err(|errno| {
                if *errno == Errno::INVAL {
                    // It may be there all the same.
                    let _ = rustix::fs::unlinkat(&place.folder, hidden, AtFlags::empty());
                }
            })
        })
    })?;
    Ok((File::from(file), hidden))
}

/// The rights that a new file gets in this folder. (Under a default access control list the user's mask does not count.)
fn rights_of_new(place: &Place) -> Permissions {
    let folder = format!("/proc/self/fd/{}", place.folder.as_raw_fd());
    if rustix::fs::getxattr_query(folder, c"system.posix_acl_default").is_ok() {
        return PERMISSIONS;
    }
    // Nobody else makes files here meanwhile: there is one thread still.
    let mask = rustix::process::umask(Permissions::empty());
    rustix::process::umask(mask);
    PERMISSIONS - mask
}

/// Does something with a hidden name that nothing has yet, and that nobody can foresee.
pub fn untaken<T>(name: &CStr, with: impl Fn(&CStr) -> Result<T, Errno>) -> Result<(T, CString), Errno> {
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let hidden = hidden_name(OsStr::from_bytes(name.to_bytes()))?;
        match with(&hidden) {
            Err(Errno::EXIST) => {}
            other => return Ok((other?, hidden)),
        }
    }
    Err(Errno::EXIST)
}

fn hidden_name(name: &OsStr) -> Result<CString, Errno> {
    const NAME_MAX: usize = 255;
    let mut random = [0; 8];
    // So few bytes are never cut short.
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let suffix = format!(".instar-{:016x}", u64::from_le_bytes(random));
    let mut bytes = b".".to_vec();
    bytes.extend(name.as_bytes().iter().take(NAME_MAX - 1 - suffix.len()));
    bytes.extend(suffix.bytes());
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn hidden_names_are_tried_again_and_fit() {
        let tried = Cell::new(0);
        let fourth = |_: &CStr| if tried.replace(tried.get() + 1) < 3 { Err(Errno::EXIST) } else { Ok(()) };
        let ((), hidden) = untaken(c"disk", fourth).expect("the fourth is free");
        assert!(hidden.to_bytes().starts_with(b".disk.instar-") && hidden.to_bytes().len() == 29);
        assert_eq!(untaken(c"disk", |_| Err::<(), _>(Errno::EXIST)).expect_err("none is free"), Errno::EXIST);
        let long = CString::new(vec![b'x'; 255]).expect("no zero");
        let name = |name: &CStr| hidden_name(OsStr::from_bytes(name.to_bytes())).expect("random bytes");
        assert_eq!(name(&long).to_bytes().len(), 255);
        assert_ne!(name(&long), name(&long));
    }

    #[test]
    fn nobody_else_reads_a_file_under_a_hidden_name() {
        let folder = std::env::temp_dir().join(format!("instar-hidden-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let place = || Place::find(&folder.join("disk")).expect("the folder is there");
        let (file, hidden) = named(&place(), Cache::default()).expect("a file");
        assert_eq!(file.metadata().expect("it is open").mode() & 0o777, 0o600);
        let rights = rights_of_new(&place());
        let mut draft = Draft {
            place: place(),
            hidden: Some(hidden),
            file,
            rights: Some(rights),
            replaced: None,
            shown: Shown::No,
        };
        draft.show(false).expect("there is nothing yet");
        let plain = folder.join("plain");
        std::fs::write(&plain, b"").expect("room on the disk");
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").mode();
        assert_eq!(mode(&folder.join("disk")), mode(&plain) & !0o022);
        assert_eq!(std::fs::read_dir(&folder).expect("it is there").count(), 2);
        std::fs::remove_dir_all(folder).expect("made here");
    }
}
