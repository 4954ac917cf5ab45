//! Whether an existing file is replaced by a new one, or written where it is because something would be lost otherwise.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};

use super::held::is_held;
use super::place::{Place, identity};

/// Why a file is written where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// There is nothing in it that could be lost, and whoever made it may hold it.
    Empty,
    /// Something besides its name leads to it, and must go on to do so.
    Shared,
    /// A second file has no room beside it.
    Room,
    /// No second file can be made that is like it.
    NoOther,
}

impl Keep {
    /// What there is against another file in its place. `need`: bytes that will be written, as far as they are known.
    pub fn of(place: &Place, file: &File, need: u64) -> std::io::Result<Option<Self>> {
        let meta = file.metadata()?;
        Ok(if meta.len() == 0 {
            Some(Self::Empty)
        } else if meta.nlink() != 1
            || place.is_open_file
            || is_mounted(file, place)
            || is_mounted_elsewhere(file, place)
            || is_held(file)
        {
            Some(Self::Shared)
        } else if is_append_only(place) {
            Some(Self::NoOther)
        } else if lacks_room(file, &meta, need) {
            Some(Self::Room)
        } else {
            None
        })
    }
}

/// Another file system, or another part of one, begins with the file: nothing can be renamed over it.
fn is_mounted(file: &File, place: &Place) -> bool {
    let Ok(seen) = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::INO) else { return true };
    if seen.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    }
    let device = |stat: rustix::fs::Stat| stat.st_dev;
    rustix::fs::fstat(file).ok().map(device) != rustix::fs::fstat(&place.folder).ok().map(device)
}

/// Names in the folder stay for ever (`chattr +a`).
fn is_append_only(place: &Place) -> bool {
    let seen = rustix::fs::statx(&place.folder, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE);
    seen.is_ok_and(|seen| seen.stx_attributes.contains(StatxAttributes::APPEND))
}

/// It can be seen at another place, too, as a mount of this one file: there the old one would stay. What is mounted for
/// other processes only cannot be seen from here.
fn is_mounted_elsewhere(file: &File, place: &Place) -> bool {
    let Ok(mounts) = crate::proc::read("/proc/self/mountinfo") else { return false };
    let own = rustix::fs::fstat(file).ok().map(|stat| identity(&stat));
    mounts.split(|byte| *byte == b'\n').any(|line| {
        // proc_pid_mountinfo(5): the fourth field is what of a file system is seen, the fifth where.
        let mut fields = line.split(|byte| *byte == b' ').skip(3).map(unescaped);
        let (Some(what), Some(at)) = (fields.next(), fields.next()) else { return false };
        // Only what has the name is looked at: a mount of another machine's files may not answer.
        let has_name = what.rsplit(|byte| *byte == b'/').next() == Some(place.name.to_bytes());
        let found = || rustix::fs::statat(rustix::fs::CWD, at.as_slice(), AtFlags::NO_AUTOMOUNT).ok();
        has_name && own.is_some() && found().map(|stat| identity(&stat)) == own
    })
}

/// A field of that file: a backslash and three octal digits are a byte.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, more @ ..] = rest {
        let digits = more.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let (byte, after) = match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (byte, &more[3..]),
            None => (*first, more),
        };
        bytes.push(byte);
        rest = after;
    }
    bytes
}

/// There is no room for a second file, and there would be some if this one went first.
fn lacks_room(file: &File, meta: &std::fs::Metadata, need: u64) -> bool {
    const SECTOR: u64 = 512;
    let Ok(system) = rustix::fs::fstatvfs(file) else { return false };
    let (own, free) = (meta.blocks() * SECTOR, system.f_bavail.saturating_mul(system.f_frsize));
    // What comes is about as much as what was there, where nothing better is known.
    let need = need.max(own);
    system.f_blocks > 0 && free < need && need <= free + own
}
