//! Whether an existing file is replaced by a new one, or written where it is because something would be lost otherwise.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};

use super::held::is_held;
use super::place::Place;

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
        } else if meta.nlink() != 1 || place.is_open_file || is_mounted(file, place) || is_held(file) {
            Some(Self::Shared)
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

/// There is no room for a second file, and there would be some if this one went first.
fn lacks_room(file: &File, meta: &std::fs::Metadata, need: u64) -> bool {
    const SECTOR: u64 = 512;
    let Ok(system) = rustix::fs::fstatvfs(file) else { return false };
    let (own, free) = (meta.blocks() * SECTOR, system.f_bavail.saturating_mul(system.f_frsize));
    // What comes is about as much as what was there, where nothing better is known.
    let need = need.max(own);
    system.f_blocks > 0 && free < need && need <= free + own
}
