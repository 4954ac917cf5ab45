//! Making images: what a format that can be written implements.

use alloc::boxed::Box;

use crate::options::Options;
use crate::{Backing, Bitmaps, DeviceId, Error, FileOffset, Kind, Machine, Result, Step, Version, Writer};

/// What an image is made with. `'a` is the machine's lifetime; what has `'n` must be copied to be kept.
pub struct CreateContext<'a, 'n> {
    /// The world.
    pub machine: &'a dyn Machine,
    /// The (empty) target.
    pub device: DeviceId,
    /// The target's name as the user gave it.
    pub name: &'n [u8],
    /// The backing file, where it is open.
    pub parent: Option<DeviceId>,
    /// The (empty) external data file, where `data_file` is among the options: the host opened it.
    pub data_device: Option<DeviceId>,
    /// Virtual size in bytes.
    pub size: u64,
    /// What `-o` said, checked against [`crate::Format::create_options`].
    pub options: &'n Options,
    /// The backing file to record.
    pub backing: Option<Backing>,
    /// The clusters will be written compressed.
    pub compressed: bool,
    /// Whose behaviour.
    pub version: Version,
}

/// What [`Creator::measure`] is told of an image that would be converted.
pub trait Measured {
    /// Bytes of all units of `unit` bytes that hold data.
    fn data(&self, unit: u64) -> Result<u64>;

    /// Its persistent bitmaps, if it can have any.
    fn bitmaps(&self) -> Option<&dyn Bitmaps>;
}

/// Sizes of a file in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// With what there is.
    pub required: u64,
    /// With data everywhere.
    pub fully_allocated: u64,
    /// And so much for the bitmaps, if there may be any.
    pub bitmaps: Option<u64>,
}

/// Makes images.
pub trait Creator: Sync {
    /// Makes an image over the one on `parent`, which [`CreateContext::backing`] names.
    fn create_child<'a>(&self, cx: CreateContext<'a, '_>, _parent: DeviceId) -> Result<Box<dyn Writer + 'a>> {
        self.create(cx)
    }

    /// Images made with these options can be filled: the stock tool makes some that it refuses to open then.
    fn can_be_filled(&self, _options: &Options, _size: u64) -> Result<()> {
        Ok(())
    }

    /// How large a file such an image needs. `source`: what would be converted into it. `None`: the format cannot tell.
    fn measure(&self, _cx: &CreateContext<'_, '_>, _source: Option<&dyn Measured>) -> Option<Result<Measure>> {
        None
    }

    /// Checks the options and the size, and makes an image that reads as zeroes (or as its backing file).
    /// What makes the file recognisable (header) is written last, by [`Writer::finish`]: a target whose
    /// conversion broke off is never mistaken for a whole one.
    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>>;
}

/// The block that is there in every new file, in bytes.
const FIRST_BLOCK: u64 = 4096;
/// The least that is written of it: who opens the file past the page cache may have blocks that are no smaller.
const FIRST_SECTOR: u64 = 512;

/// Gives a new file its length. Its first block exists, as QEMU has it: who opens the file past the page cache can find
/// out what its blocks are like.
pub fn set_first_length(machine: &dyn Machine, device: DeviceId, len: u64) -> Result<()> {
    machine.submit(&[Step::SetLength { device, len }]).map_err(not_resized)?;
    if len > 0 {
        let first = if len < FIRST_BLOCK { FIRST_SECTOR } else { FIRST_BLOCK };
        machine.submit(&[Step::Write { device, offset: FileOffset::ZERO, data: &alloc::vec![0; first as usize] }])?;
    }
    Ok(())
}

/// A device has the length that it has: whether an image of `len` bytes fits.
pub fn check_room(machine: &dyn Machine, device: DeviceId, len: u64) -> Result<()> {
    let stat = machine.stat(device)?;
    if stat.block_device && stat.len < len { Err(Error::usage("Cannot grow device files")) } else { Ok(()) }
}

/// The error in QEMU's words, if it is the host's.
#[must_use]
pub fn not_resized(error: Error) -> Error {
    match error.kind {
        Kind::Io(_) => error.context("Could not resize file"),
        _ => error,
    }
}
