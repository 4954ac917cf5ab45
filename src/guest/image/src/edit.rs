//! Changing an existing image in place: what rebase, commit, bench and `convert -n` need of an open image.

use crate::{
    Backing, BitmapEditor, DeviceId, Error, FileOffset, Machine, Result, Role, SnapshotEditor, Target, Writer,
};

/// What is going to become of the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes<'n> {
    /// It is going to show other bytes than before (not so for rebase): what follows the disk's changes (persistent bitmaps)
    /// has to be kept up.
    pub content: bool,
    /// An overlay of the same format that takes part in this refers to the image's identity: that stays what it is.
    pub keeps_identity: bool,
    /// What it is going to be made to stand on ([`Rebasing`]), where that is known.
    pub backing: Option<NewBacking<'n>>,
    /// Units will be written compressed.
    pub compressed: bool,
}

/// What an image is going to stand on.
#[derive(Clone, Copy, Debug)]
pub struct NewBacking<'n> {
    /// Its name as the image is to have it.
    pub name: &'n [u8],
    /// Its device, if it is open.
    pub device: Option<DeviceId>,
}

impl NewBacking<'_> {
    /// Its device, for a format whose images hold the identity of what they stand on: a name that is not open yet is
    /// opened as the image on the device `from` will have it opened.
    pub fn open(&self, machine: &dyn Machine, from: DeviceId) -> Result<DeviceId> {
        if let Some(device) = self.device {
            return Ok(device);
        }
        machine.open_named(from, self.name, Role::Backing, false).map_err(|error| {
            let hint = "the image holds the identity of its backing file: with -u, too, that has to be there";
            error.context("Could not open new backing file").with_hint(hint)
        })
    }
}

/// Where bytes of a disk lie that may be overwritten there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The device.
    pub device: DeviceId,
    /// Where the first one is.
    pub offset: FileOffset,
    /// How many there are.
    pub len: u64,
}

/// Changes the disk of an open image.
///
/// [`Writer::place`] takes whole units ([`Target::Allocated`]), or, where the image holds a compressed unit
/// there, all of that. What it changes are new places and the bytes of places that this image alone refers to; nothing
/// that is stable already refers to them until [`Writer::settle`]. So a run that is cut anywhere leaves an image
/// that reads as before, but for what was overwritten in place, and has leaks at worst. [`Writer::finish`] settles.
///
/// What only some images can do is an object that others do not have.
pub trait Editor: Writer {
    /// The bytes from `at` on, at most `max`, are going to be overwritten where they are: their place, if it is this image's
    /// alone. Whatever the image keeps of its being changed is changed. `None`: a whole unit has to be placed first, and has
    /// such a place then.
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>>;

    /// Names another backing file.
    fn rebasing(&self) -> Option<&dyn Rebasing> {
        None
    }

    /// Drops everything that the disk holds.
    fn emptying(&self) -> Option<&dyn Emptying> {
        None
    }

    /// Takes, applies and deletes internal snapshots.
    fn snapshots(&self) -> Option<&dyn SnapshotEditor> {
        None
    }

    /// Changes its persistent dirty bitmaps.
    fn bitmaps(&self) -> Option<&dyn BitmapEditor> {
        None
    }
}

/// See [`Editor::own`]: where every byte has its place.
pub fn own_linear(target: Target, at: u64, max: u64) -> Result<Option<Spot>> {
    match target {
        Target::Linear { device, base, .. } | Target::LinearEncrypted { device, base } => {
            let offset = base.checked_add(at).ok_or_else(|| Error::corrupt("a place behind all files"))?;
            Ok(Some(Spot { device, offset, len: max }))
        }
        Target::Allocated { .. } => Err(Error::corrupt("the bytes of such a disk have to be placed")),
    }
}

/// An image that can be made to stand on another one.
pub trait Rebasing {
    /// Names another backing file, or none, and then that is stable. It was said before, if there is one
    /// ([`Changes::backing`]).
    fn set_backing(&self, backing: Option<&Backing>) -> Result<()>;
}

/// An image whose disk can be emptied.
pub trait Emptying {
    /// Drops everything that the disk holds, so that it shows its backing file. Nothing else was placed before.
    fn empty(&self) -> Result<()>;
}
