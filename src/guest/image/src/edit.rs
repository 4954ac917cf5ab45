//! Changing an existing image in place: what rebase, commit and `convert -n` need of a format.

use alloc::boxed::Box;
use alloc::string::String;

use crate::{Backing, Bitmaps, DeviceId, Error, Machine, OpenContext, ResizeContext, Result, Role, Version, Writer};

/// What an image is opened with to be changed. `'a` is the machine's lifetime; what has `'n` must be copied to be kept.
#[derive(Clone, Copy)]
pub struct EditContext<'a, 'n> {
    /// The world; the image may name further files (data file, extents), which are opened through it.
    pub machine: &'a dyn Machine,
    /// The image's device, open for writing.
    pub device: DeviceId,
    /// The file's name as the user or the referring image gave it.
    pub name: &'n [u8],
    /// Whose behaviour.
    pub version: Version,
    /// The disk is going to show other bytes than before (not so for rebase): what follows the disk's changes (persistent
    /// bitmaps) has to be kept up.
    pub changes_content: bool,
    /// An overlay of the same format that takes part in this refers to the image's identity: that stays what it is.
    pub keeps_identity: bool,
    /// What it is going to be made to stand on ([`Editor::set_backing`]), where that is known.
    pub backing: Option<NewBacking<'n>>,
    /// Units will be written compressed.
    pub compressed: bool,
    /// Driver options of `--image-opts`.
    pub options: &'n [(String, String)],
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
    /// opened as the image will have it opened.
    pub fn open(&self, cx: &EditContext<'_, '_>) -> Result<DeviceId> {
        if let Some(device) = self.device {
            return Ok(device);
        }
        cx.machine.open_named(cx.device, self.name, Role::Backing, false).map_err(|error| {
            let hint = "the image holds the identity of its backing file: with -u, too, that has to be there";
            error.context("Could not open new backing file").with_hint(hint)
        })
    }
}

impl<'a, 'n> OpenContext<'a, 'n> {
    /// The same image opened to be read, no other file with it.
    #[must_use]
    pub fn of_edit(cx: &EditContext<'a, 'n>) -> Self {
        Self {
            source: cx.machine.source(),
            opener: None,
            device: cx.device,
            name: cx.name,
            version: cx.version,
            write: true,
            options: cx.options,
        }
    }
}

impl<'a, 'n> EditContext<'a, 'n> {
    /// For an image that gets another size.
    #[must_use]
    pub fn of_resize(cx: &ResizeContext<'a, 'n>) -> Self {
        Self {
            machine: cx.machine,
            device: cx.device,
            name: cx.name,
            version: cx.version,
            changes_content: true,
            keeps_identity: false,
            backing: None,
            compressed: false,
            options: cx.driver_options,
        }
    }
}

/// Opens images of one format to be changed.
pub trait Editing: Sync {
    /// Units can be stored compressed in an existing image.
    fn can_compress(&self) -> bool {
        false
    }

    /// An existing image can be made to name another backing file.
    fn can_rebase(&self) -> bool {
        false
    }

    /// Makes an image sound again that was not closed, whatever it is opened for; says nothing. Cut anywhere, it is to be
    /// done again. Called before anything of the image is read that is kept. `lower`: the image is open to be read already,
    /// by one above it.
    fn recover(&self, _machine: &dyn Machine, _cx: &OpenContext<'_, '_>, _lower: bool) -> Result<()> {
        Ok(())
    }

    /// Reads the tables, and refuses an image that must not be written to.
    fn edit<'a>(&self, cx: EditContext<'a, '_>) -> Result<Box<dyn Editor + 'a>>;

    /// Adds bitmaps with the names, the granularity and the bits of those numbered `wanted` of `from`, which are of a disk
    /// of `size` bytes: all of them, or, if it fails, none. The disk itself is not looked at.
    fn add_bitmaps(&self, _cx: EditContext<'_, '_>, _from: &dyn Bitmaps, _wanted: &[usize], _size: u64) -> Result<()> {
        Err(Error::unsupported("Operation not supported"))
    }
}

/// An image that is being changed.
///
/// [`Writer::place`] takes whole units ([`crate::Target::Allocated`]), or, where the image holds a compressed unit
/// there, all of that. What it changes are new places and the bytes of places that this image alone refers to; nothing
/// that is stable already refers to them until [`Writer::settle`]. So a run that is cut anywhere leaves an image
/// that reads as before, but for what was overwritten in place, and has leaks at worst. [`Writer::finish`] settles.
pub trait Editor: Writer {
    /// Virtual size in bytes.
    fn virtual_size(&self) -> u64;

    /// Names another backing file, or none, and then that is stable.
    fn set_backing(&self, _backing: Option<&Backing>) -> Result<()> {
        Err(Error::unsupported("Operation not supported"))
    }

    /// The image can keep persistent dirty bitmaps.
    fn keeps_bitmaps(&self) -> bool {
        false
    }

    /// Drops everything that the disk holds, so that it shows its backing file. Nothing else was placed before.
    fn empty(&self) -> Result<()> {
        Err(Error::unsupported("Operation not supported"))
    }
}
