//! Which files an image may name.
//!
//! A name is judged before the file system is asked anything: made absolute against the directory of the
//! image that has it, its `.` and `..` folded, it must lie below that directory or one that was allowed. Only then is it
//! looked at, below the allowed directory's own descriptor, and the kernel sees to it that nothing leads out
//! (`RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`). A symbolic link in these directories is read ([`walk`]), and where it leads is
//! judged like a name. So a refusal never tells whether the target exists. What is neither a regular file nor a block
//! device is never opened: opening it could have an effect. Block devices are opened below an allowed directory only, and
//! a folder of devices is never a directory of images by itself.
//!
//! For writing a file is opened only if the command said so ([`Parts`]): so many of that kind for the image on that
//! device, each once, regular files only. None is opened so once the guest has read anything but what it may write: an
//! image that is only read has no say in what is written.

mod asked;
mod folder;
mod parts;
mod vouched;
mod walk;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use instar_abi::ring::{Role, Status};
use rustix::fs::{Mode as Permissions, OFlags, ResolveFlags};

use crate::device::{Device, Mode};
use crate::links::PROC_MAGIC;
use crate::server::{Holder, Slot};
use crate::{locks, medium};
pub use asked::{Asked, Log};
pub use parts::Parts;
use vouched::Vouched;

/// Deepest chain.
const CHAIN_MAX: usize = 4096;

/// The open policy for names that come from images. Names given on the command line never pass here.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `--no-backing`: none at all.
    pub deny_all: bool,
    /// Directories below which files may be opened, besides that of the image that the user named.
    pub allowed: Vec<PathBuf>,
    /// `-U`: take no locks.
    pub force_share: bool,
    /// Files that the user named: an image that names one of them may have it.
    pub vouched: Vec<PathBuf>,
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

/// What a name led to.
#[derive(Debug)]
pub enum Opened {
    /// A file.
    New(Box<Device>),
    /// A device that the image has already.
    Again(u32),
}

/// A directory below which files may be opened.
#[derive(Debug)]
struct Root {
    /// Where it is, without any link.
    path: PathBuf,
    /// As the user named it, if a link was on the way: images may name it so, too.
    alias: Option<PathBuf>,
    fd: OwnedFd,
    /// The user allowed it for every image; else it is only for chains that begin in it.
    for_all: bool,
    /// Files in it may be opened for writing.
    writable: bool,
    /// It stands for one file in it, which the user named.
    vouched: bool,
}

impl Root {
    /// A file that the user named is written as the base of a commit, never as a part of another image.
    fn writable_as(&self, role: Role) -> bool {
        self.writable && (!self.vouched || role == Role::Backing)
    }
}

/// The policy at work: directories opened before the lock-down.
#[derive(Debug)]
pub struct Gate {
    policy: Policy,
    roots: Vec<Root>,
    vouched: Vec<Vouched>,
    /// Folders as they were named, and where they are.
    known: Vec<(PathBuf, PathBuf)>,
    /// What is written, under whatever name: it is not read as something else.
    written: BTreeSet<(u64, u64)>,
    /// The guest was given something of what it may not write.
    foreign: AtomicBool,
}

/// Folds `.`, `..` and doubled slashes by the letters alone. `path` is absolute.
#[must_use]
pub fn fold(path: &Path) -> PathBuf {
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
    let file = name.strip_prefix(b"file:");
    // Behind `file:` a colon is a part of the name.
    let protocol = file.is_none() && name.iter().find(|b| matches!(b, b':' | b'/')) == Some(&b':');
    let name = file.unwrap_or(name);
    (!name.is_empty() && !name.contains(&0) && !protocol).then(|| Path::new(std::ffi::OsStr::from_bytes(name)))
}

/// The directory of a device's name, folded.
fn folder(device: &Device) -> Option<PathBuf> {
    device.path.parent().map(fold)
}

/// Where an open directory is, without any link; where nobody can tell, what its name says.
fn whereabouts(directory: &OwnedFd, given: &Path) -> PathBuf {
    let known = rustix::fs::readlink(format!("/proc/self/fd/{}", directory.as_raw_fd()), Vec::new());
    let path = known.ok().map(|path| PathBuf::from(OsString::from_vec(path.into_bytes())));
    path.filter(|path| path.is_absolute()).unwrap_or_else(|| fold(given))
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Permissions::empty())
}

/// How a directory is opened: from the current one, if its name was made from that one's. That need not be reachable by its
/// own name.
fn from_here<'p>(path: &'p Path, here: &Path) -> &'p Path {
    match path.strip_prefix(here) {
        Ok(rest) if rest.as_os_str().is_empty() => Path::new("."),
        Ok(rest) => rest,
        Err(_) => path,
    }
}

fn joined(above: &Path, name: &[u8]) -> Option<PathBuf> {
    Some(above.parent()?.join(plain(name)?))
}

/// Whether folding by the letters leads where the kernel would go: what a `..` leaves is a directory and no link to one.
/// Only what lies in the directories is looked at; of what lies outside nobody gets to know anything.
fn is_straight(path: &Path, roots: &[&Root]) -> bool {
    let is_directory = |at: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        roots.iter().any(|root| {
            let below = || {
                rustix::fs::openat2(&root.fd, at.strip_prefix(&root.path).ok()?, flags, Permissions::empty(), resolve)
                    .ok()
            };
            root.path.starts_with(at) || below().is_some()
        })
    };
    let mut at = PathBuf::from("/");
    path.components().all(|component| match component {
        Component::Normal(name) => {
            at.push(name);
            true
        }
        Component::ParentDir => {
            let leaves = at.parent().is_none() || is_directory(&at);
            at.pop();
            leaves
        }
        Component::RootDir | Component::CurDir | Component::Prefix(_) => true,
    })
}

/// That an image would be refused a name, and where that leads as far as it could be followed.
#[derive(Debug)]
pub struct Refused {
    /// Nowhere if it is no plain path.
    pub leads_to: Option<PathBuf>,
}

/// Whether an image at `path` would be refused what it named so. Both are taken as they are before the lock-down.
#[must_use]
pub fn would_refuse(policy: Policy, path: &Path, name: &[u8]) -> Option<Refused> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let path = crate::target::absolute(path);
    let Ok(file) = File::open(folder) else {
        return Some(Refused { leads_to: joined(&path, name).map(|path| fold(&path)) });
    };
    let mut image = [Device::new(file, path, Mode::Read)];
    let gate = Gate::new(Policy { force_share: true, ..policy }, &mut image);
    let chain = image.map(|image| Arc::new(Slot::new(image, None)));
    let found = gate.find(name, &chain);
    let leads_to = found.leads_to.clone();
    let opened = gate.open(found, Role::Backing, false, &chain, &|_| Holder::Nobody);
    opened.is_err_and(|no| no.status == Status::Refused).then_some(Refused { leads_to })
}

impl Gate {
    /// The gate for these devices. What images name is relative to where they are: the devices get paths with folders without
    /// any link.
    #[must_use]
    pub fn new(policy: Policy, devices: &mut [Device]) -> Self {
        let here = crate::target::absolute(Path::new("."));
        let gate = Self::with_directories(policy, devices, &here);
        for device in devices {
            let (Some(folder), Some(name)) = (device.path.parent(), device.path.file_name()) else { continue };
            let known = gate.known.iter().find(|(given, _)| given == folder).map(|(_, at)| at.clone());
            let look = || Some(whereabouts(&open_directory(from_here(folder, &here)).ok()?, folder));
            if let Some(at) = known.or_else(look) {
                device.path = at.join(name);
            }
        }
        gate
    }

    /// Opens the directories: those of the images that were there, and the allowed ones. One that cannot be opened
    /// allows nothing.
    fn with_directories(policy: Policy, devices: &[Device], here: &Path) -> Self {
        let has_parts = |d: &Device| !d.fresh && d.mode != Mode::Read && d.parts != Parts::NONE;
        let some_written = devices.iter().any(has_parts);
        let own = devices
            .iter()
            .filter(|device| !device.fresh && !device.is_block())
            .filter_map(|device| Some((device.path.parent()?, false, has_parts(device))));
        let mut roots: Vec<Root> = Vec::new();
        let (mut vouched, mut known) = (Vec::new(), Vec::new());
        if !policy.deny_all {
            // The base of a commit is written; whatever else the user names is read.
            let commits = devices.iter().any(|device| device.parts.bases > 0);
            vouched.extend(policy.vouched.iter().filter_map(|path| Vouched::new(path, commits)));
            let named = vouched.iter().map(|file| (file.root.path.as_path(), false, false));
            let allowed = policy.allowed.iter().map(|path| (path.as_path(), true, some_written));
            for (given, for_all, writable) in allowed.chain(own).chain(named) {
                let Ok(fd) = open_directory(from_here(given, here)) else { continue };
                let path = whereabouts(&fd, given);
                known.push((given.to_path_buf(), path.clone()));
                // A name that goes back up means what it says only where no link is on the way.
                let is_plain = !given.components().any(|component| component == Component::ParentDir);
                let alias = Some(fold(given)).filter(|alias| is_plain && *alias != path);
                if let Some(have) = roots.iter_mut().find(|root| root.path == path && root.alias == alias) {
                    have.writable |= writable;
                    continue;
                }
                if for_all || !folder::holds_devices(&fd) {
                    roots.push(Root { path, alias, fd, for_all, writable, vouched: false });
                }
            }
        }
        let names_devices = !policy.deny_all && !policy.allowed.is_empty();
        let written = medium::same_as_written(devices, names_devices);
        Self { policy, roots, vouched, known, written, foreign: AtomicBool::new(false) }
    }

    /// The directories (and files) that may be reached, and whether what is there may be written.
    pub fn directories(&self) -> impl Iterator<Item = (&OwnedFd, bool)> {
        let vouched = self.vouched.iter().map(|vouched| (&vouched.file, vouched.root.writable));
        self.roots.iter().map(|root| (&root.fd, root.writable)).chain(vouched)
    }

    /// The folders in which a chain is at home: that of the image that it begins with, and of those that the user named.
    fn homes(&self, chain: &[Arc<Slot>]) -> Vec<PathBuf> {
        let named = |slot: &&Arc<Slot>| self.vouched.iter().any(|vouched| vouched.is(slot.identity));
        let slots = chain.iter().filter(named).chain(chain.last()).filter(|slot| !slot.block);
        slots.filter_map(|slot| folder(&slot.device)).collect()
    }

    /// Finds what the image on the first device of `chain` names; `chain` goes on with those that led to it. Nothing is
    /// opened yet.
    pub fn find(&self, name: &[u8], chain: &[Arc<Slot>]) -> Found<'_> {
        match chain.first().and_then(|above| joined(&above.device.path, name)) {
            Some(path) => self.follow(&path, chain),
            None => Found { leads_to: None, named: PathBuf::new(), there: Err(Status::Refused.into()) },
        }
    }

    fn follow(&self, path: &Path, chain: &[Arc<Slot>]) -> Found<'_> {
        let homes = self.homes(chain);
        let own: Vec<&Root> = self.roots.iter().filter(|root| root.for_all || homes.contains(&root.path)).collect();
        let straight = is_straight(path, &own);
        if let Some(file) = vouched::find(&self.vouched, path, straight) {
            return Found::by_its_letters(
                vec![Place { root: &file.root, rest: file.name.clone().into() }],
                PathBuf::new(),
            );
        }
        if straight {
            let path = fold(path);
            let places = Place::all(&own, &path);
            let is_inside = !places.is_empty();
            let found = Found::by_its_letters(places, path);
            if !is_inside || !found.there.as_ref().is_err_and(|no| *no == LINK) {
                return found;
            }
        }
        match walk::follow(path, &own) {
            Ok(way) => Found { named: way.named, ..Found::by_its_letters(Place::all(&own, &way.to), way.to) },
            Err((no, at)) => Found { leads_to: Some(at), named: PathBuf::new(), there: Err(no) },
        }
    }

    /// The guest is given something of what is on a device: from then on it may have been taken over by that.
    pub fn gives(&self, slot: &Slot) {
        if slot.device.mode == Mode::Read {
            self.foreign.store(true, Ordering::SeqCst);
        }
    }

    /// Opens what was found. `held` tells who has the file already: an image's own are not locked against itself.
    pub fn open(
        &self,
        found: Found<'_>,
        role: Role,
        write: bool,
        chain: &[Arc<Slot>],
        held: &dyn Fn((u64, u64)) -> Holder,
    ) -> Result<Opened, No> {
        let above = chain.first().ok_or(Status::BadDevice)?;
        let top = chain.last().ok_or(Status::BadDevice)?;
        let Found { named, there, .. } = found;
        let (places, looked) = there?;
        let first = places.first().ok_or(Status::Refused)?;
        if chain.len() >= CHAIN_MAX {
            return Err(Status::TooMany.into());
        }
        // Into what a chain may be committed its top was told; other parts are the image's own.
        let by = if role == Role::Backing { top } else { above };
        let place = if write {
            places.iter().find(|place| place.root.writable_as(role)).ok_or(Status::ReadOnly)?
        } else {
            first
        };
        if write && (by.device.fresh || by.device.mode == Mode::Read || *by.device.parts.clone().left(role) == 0) {
            return Err(Status::ReadOnly.into());
        }
        let seen = place.examine(&looked)?;
        if role == Role::Backing && chain.iter().any(|slot| slot.identity == seen) {
            return Err(Status::Loop.into());
        }
        match held(seen) {
            Holder::Own(index) => return Ok(Opened::Again(index)),
            // Whatever the user says of other programs (`-U`): what is written here is not read as something else.
            Holder::Writer => return Err(Status::Locked.into()),
            Holder::Other if write => return Err(Status::Locked.into()),
            Holder::Other | Holder::Nobody if !write && self.written.contains(&seen) => {
                return Err(Status::Locked.into());
            }
            Holder::Other | Holder::Nobody => {}
        }
        let (mode, parts) = match (write, role) {
            (false, _) => (Mode::Read, Parts::NONE),
            (true, Role::Backing) => (by.device.mode, by.device.parts.of_base()),
            (true, _) => (by.device.mode, Parts::NONE),
        };
        let mut left = by.left.lock().unwrap_or_else(PoisonError::into_inner);
        if write {
            // The images of a chain that is committed are all the user's to be looked at first.
            if self.foreign.load(Ordering::SeqCst) && top.device.parts.bases == 0 {
                return Err(Status::ReadOnly.into());
            }
            if *left.left(role) == 0 {
                return Err(Status::TooMany.into());
            }
        }
        let file = place.open(write, seen)?;
        let contended = match (self.policy.force_share, write) {
            (true, _) => Ok(false),
            (false, true) => locks::lock_for_write(&file).map(|()| false),
            (false, false) => locks::lock_beside_writers(&file),
        };
        let contended = contended.map_err(|_| Status::Locked)?;
        if write {
            *left.left(role) -= 1;
        }
        let ignore_flush = above.device.ignore_flush;
        let device = Device { contended, ignore_flush, parts, ..Device::new(file, named, mode) };
        Ok(Opened::New(Box::new(device)))
    }
}

/// What a name was found to be.
#[derive(Debug)]
pub struct Found<'r> {
    /// Where it leads, as far as it could be followed; nowhere if it is no plain path.
    pub leads_to: Option<PathBuf>,
    /// By what name the file is known from here on: names in it are relative to the folder of that.
    named: PathBuf,
    /// Below which directories it is, and the file, not opened yet; or why it is not to be had.
    there: Result<(Vec<Place<'r>>, File), No>,
}

impl<'r> Found<'r> {
    /// With no link on the way; if there is one, then [`LINK`]. `path` is only for what lies in no place.
    fn by_its_letters(places: Vec<Place<'r>>, path: PathBuf) -> Self {
        let Some(first) = places.first() else {
            return Self { leads_to: Some(path), named: PathBuf::new(), there: Err(Status::Refused.into()) };
        };
        let (path, looked) = (first.path(), first.look());
        Self { leads_to: Some(path.clone()), named: path, there: looked.map(|file| (places, file)) }
    }
}

/// A directory, and where below it a file is.
#[derive(Debug)]
struct Place<'r> {
    root: &'r Root,
    rest: PathBuf,
}

impl<'r> Place<'r> {
    fn below(root: &'r Root, path: &Path) -> Option<Self> {
        let alias = root.alias.as_ref().and_then(|alias| path.strip_prefix(alias).ok());
        let rest = path.strip_prefix(&root.path).ok().or(alias).filter(|rest| !rest.as_os_str().is_empty())?;
        Some(Self { root, rest: rest.to_path_buf() })
    }

    /// Those of a path.
    fn all(roots: &[&'r Root], path: &Path) -> Vec<Self> {
        roots.iter().filter_map(|root| Self::below(root, path)).collect()
    }

    fn path(&self) -> PathBuf {
        self.root.path.join(&self.rest)
    }

    /// The file, without opening it.
    fn look(&self) -> Result<File, No> {
        beneath(&self.root.fd, &self.rest, OFlags::PATH)
    }

    /// What is there.
    fn examine(&self, looked: &File) -> Result<(u64, u64), No> {
        let seen = examine(looked)?;
        // What a block device holds is never the folder's own.
        if seen.0 == BLOCK && !self.root.for_all { Err(Status::Refused.into()) } else { Ok(seen) }
    }

    fn open(&self, write: bool, seen: (u64, u64)) -> Result<File, No> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let file = beneath(&self.root.fd, &self.rest, access | OFlags::NOCTTY | OFlags::NONBLOCK)?;
        // Else it was exchanged meanwhile.
        if examine(&file)? == seen { Ok(file) } else { Err(Status::WrongType.into()) }
    }
}

/// There is a link on the way, or something leads out of the directory: said in the same words as of any name outside.
const LINK: No = No { status: Status::Refused, errno: 0 };

/// Opens without ever leaving `directory`, and without following any link.
fn beneath(directory: &OwnedFd, rest: &Path, flags: OFlags) -> Result<File, No> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        return match rustix::fs::openat2(directory, rest, flags | OFlags::CLOEXEC, Permissions::empty(), resolve) {
            Ok(fd) => Ok(File::from(fd)),
            // Somebody renames something on the way: the kernel cannot be sure, and says so.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::LOOP) => Err(LINK),
            Err(errno) => Err(No { status: Status::Io, errno: errno.raw_os_error().cast_unsigned() }),
        };
    }
}

/// What tells the file from all others, if it is one that an image may name.
fn examine(file: &File) -> Result<(u64, u64), No> {
    use std::os::unix::fs::MetadataExt;
    let meta = file.metadata().map_err(|_| Status::WrongType)?;
    let block = meta.file_type().is_block_device();
    let pseudo = rustix::fs::fstatfs(file).is_ok_and(|fs| matches!(fs.f_type, PROC_MAGIC | SYSFS_MAGIC));
    if !(meta.file_type().is_file() || block) || pseudo {
        return Err(Status::WrongType.into());
    }
    Ok(if block { (BLOCK, meta.rdev()) } else { (meta.dev(), meta.ino()) })
}

/// In the place of the file system's number: the file is a block device.
pub const BLOCK: u64 = u64::MAX;

const SYSFS_MAGIC: i64 = 0x6265_6572;

#[cfg(test)]
mod tests;
