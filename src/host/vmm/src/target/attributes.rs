//! What a file has besides its content: what replaces it must have the same.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{IFlags, Mode, XattrFlags};
use rustix::io::Errno;

/// Flags of `chattr` that somebody sets; the others are the file system's own.
const FLAGS: IFlags = IFlags::from_bits_retain(0x22_80_cc_ff);
/// Flags of `struct fsxattr` that go with its numbers: on the real-time device, extent size hint, the same for copies.
const NUMBERS: u32 = 0x1 | 0x800 | 0x1_0000;
/// Gone as soon as somebody writes to the file.
const OF_THE_OLD_CONTENT: &CStr = c"security.capability";
/// Sums of content or attributes: those of another file are wrong.
const SUMS: [&CStr; 2] = [c"security.ima", c"security.evm"];

/// Owner, rights, flags and extended attributes: access control lists and security labels are among these.
#[derive(Debug, PartialEq, Eq)]
pub struct Attributes {
    owner: (u32, u32),
    mode: u32,
    flags: Option<IFlags>,
    project: Option<Project>,
    extended: BTreeMap<CString, Vec<u8>>,
}

impl Attributes {
    /// A file's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(file: &File) -> io::Result<Self> {
        const RIGHTS: u32 = 0o7777;
        let meta = file.metadata()?;
        Ok(Self {
            owner: (meta.uid(), meta.gid()),
            mode: meta.mode() & RIGHTS & !of_the_old_content(meta.mode()),
            flags: rustix::fs::ioctl_getflags(file).ok().map(|flags| flags & FLAGS),
            project: Project::of(file),
            extended: extended(file)?,
        })
    }

    /// Gives them all to a new, empty file.
    ///
    /// # Errors
    /// Not all of them can be given to it.
    pub fn give(&self, file: &File) -> io::Result<()> {
        let has = Self::of(file)?;
        if has != *self {
            // A folder that gives a project to what is made in it takes in no file of another one.
            let given = |attributes: &Self| attributes.project.map_or(0, |project| project.project);
            if given(&has) != 0 && given(&has) != given(self) {
                return Err(Errno::XDEV.into());
            }
            self.change(file, &has)?;
        }
        if Self::of(file)? == *self { Ok(()) } else { Err(Errno::NOTSUP.into()) }
    }

    /// Gives those again that say who may do what with the file, after it was written.
    ///
    /// # Errors
    /// The kernel's.
    pub fn renew(&self, file: &File) -> io::Result<()> {
        let has = Self::of(file)?;
        let same = (self.owner, self.mode, &self.extended) == (has.owner, has.mode, &has.extended);
        if same { Ok(()) } else { self.change_rights(file, &has) }
    }

    fn change(&self, file: &File, has: &Self) -> io::Result<()> {
        if let (Some(wanted), true) = (self.flags, self.flags != has.flags) {
            let others = rustix::fs::ioctl_getflags(file)? - FLAGS;
            rustix::fs::ioctl_setflags(file, others | wanted)?;
        }
        if let (Some(wanted), true) = (&self.project, self.project != has.project) {
            wanted.give(file)?;
        }
        self.change_rights(file, has)
    }

    fn change_rights(&self, file: &File, has: &Self) -> io::Result<()> {
        if self.owner != has.owner {
            std::os::unix::fs::fchown(file, Some(self.owner.0), Some(self.owner.1))?;
        }
        for name in has.extended.keys().filter(|name| !self.extended.contains_key(*name)) {
            rustix::fs::fremovexattr(file, name.as_c_str())?;
        }
        let missing = self.extended.iter().filter(|(name, value)| has.extended.get(*name) != Some(value));
        for (name, value) in missing.filter(|(name, _)| !SUMS.contains(&name.as_c_str())) {
            rustix::fs::fsetxattr(file, name.as_c_str(), value, XattrFlags::empty())?;
        }
        rustix::fs::fchmod(file, self.rights())?;
        Ok(())
    }

    /// The rights alone.
    pub const fn rights(&self) -> Mode {
        Mode::from_raw_mode(self.mode)
    }
}

/// Whose rights a program has that is in the file: nothing that is to pass to what somebody writes into it.
const fn of_the_old_content(mode: u32) -> u32 {
    libc::S_ISUID | if mode & libc::S_IXGRP == 0 { 0 } else { libc::S_ISGID }
}

fn extended(file: &File) -> io::Result<BTreeMap<CString, Vec<u8>>> {
    // Their length is asked for first: mostly there are none.
    let len = match rustix::fs::flistxattr_query(file) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(BTreeMap::new()),
        len => len?,
    };
    let names = filled(len, |buffer| rustix::fs::flistxattr(file, buffer))?;
    let mut all = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name)?;
        if name.as_c_str() == OF_THE_OLD_CONTENT {
            continue;
        }
        let len = rustix::fs::fgetxattr_query(file, name.as_c_str())?;
        let value = filled(len, |buffer| rustix::fs::fgetxattr(file, name.as_c_str(), buffer))?;
        all.insert(name, value);
    }
    Ok(all)
}

/// What a call fills a buffer of that length with.
fn filled(len: usize, call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    let len = if bytes.is_empty() { 0 } else { call(&mut bytes)? };
    bytes.truncate(len);
    Ok(bytes)
}

/// `struct fsxattr` of ioctl_xfs_fsgetxattr(2): project (quota) and extent size hints.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Project {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copied_extent_size: u32,
    pad: [u8; 8],
}

impl Project {
    fn of(file: &File) -> Option<Self> {
        let all = Self::ask(file)?;
        Some(Self { flags: all.flags & NUMBERS, extents: 0, ..all })
    }

    fn ask(file: &File) -> Option<Self> {
        const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
        let mut all = Self::default();
        // SAFETY: the descriptor is open, and the structure is the one that this request fills.
        (unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut all) } == 0).then_some(all)
    }

    fn give(&self, file: &File) -> io::Result<()> {
        const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
        let has = Self::ask(file).ok_or(Errno::NOTSUP)?;
        let all = Self { flags: has.flags & !NUMBERS | self.flags, ..*self };
        // SAFETY: the descriptor is open, and the structure is the one that this request takes.
        match unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const all) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
