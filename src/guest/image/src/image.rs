//! An open image: what it shows, what it is, and what it can become.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::{
    Amendment, Bitmaps, Changes, CheckContext, CheckReport, Compressed, DeviceId, Editor, Error, Extent, FileOffset,
    Repaired, Repairs, Resizing, Result, Value,
};

/// A backing file as the image names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// The name's bytes as stored.
    pub name: Vec<u8>,
    /// The format that the image says it has; absent: to be probed.
    pub format: Option<String>,
}

/// One internal snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Identifier, as stored.
    pub id: Vec<u8>,
    /// Name, as stored.
    pub name: Vec<u8>,
    /// Size of the saved machine state in bytes.
    pub vm_state_size: u64,
    /// When it was taken, seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// Nanoseconds that the machine had run.
    pub vm_clock_nsec: u64,
    /// Instruction count, if recorded.
    pub icount: Option<u64>,
}

/// What `info` shows of an image beyond what the other methods of [`Image`] tell.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// `cluster-size`, for formats that report one.
    pub cluster_size: Option<u64>,
    /// `encrypted: yes`.
    pub encrypted: bool,
    /// `cleanly shut down: no`.
    pub dirty: bool,
    /// The snapshot list.
    pub snapshots: Vec<Snapshot>,
    /// `format-specific`: the map under `data`; its `type` is the format's name.
    pub specific: Option<Value>,
    /// Further child nodes (name, device) beside `file`, in qemu's order.
    pub children: Vec<(String, DeviceId)>,
}

/// Numbers by which an image and those that stand on it know each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The image's own.
    pub own: u32,
    /// Its backing file's, without which the image does not show that one's bytes.
    pub backing: u32,
}

/// An open image. It is changed by its [`Editor`] alone, which it has only if it was opened to be written to.
pub trait Image: Send + Sync {
    /// Virtual size in bytes.
    fn virtual_size(&self) -> u64;

    /// The extent that begins at `at` and is as long as it can be told cheaply, at most `max` bytes. `at` is
    /// below the virtual size; the extent never reaches past it. Adjacent extents in the same place are merged
    /// as far as one table goes. What its editor has changed it shows at once.
    fn extent(&self, at: u64, max: u64) -> Result<Extent>;

    /// Begins to change the disk of an image that was opened to be written to: refuses one that must not be, or has an
    /// editor from now on. `None`: images of the format are only read.
    fn begin(&mut self, _changes: &Changes<'_>) -> Option<Result<()>> {
        None
    }

    /// What changes the disk, once that was begun.
    fn editor(&self) -> Option<&dyn Editor> {
        None
    }

    /// What gives an image that was opened to be written to another size. It is opened anew afterwards. `None`: its kind keeps
    /// its size.
    fn resizing(&self) -> Option<&dyn Resizing> {
        None
    }

    /// Makes an image that was opened to be written to what it is to become. Cut anywhere, it shows the same disk, and has leaks
    /// at worst. `None`: nothing but its size can change.
    fn amend(&mut self, _what: &Amendment<'_>) -> Option<Result<()>> {
        None
    }

    /// The backing file, if the image names one.
    fn backing(&self) -> Option<Backing> {
        None
    }

    /// How an image that stands on this one knows it again, and this one what it stands on. `None`: its kind does not care.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// What `info` shows.
    fn describe(&self) -> Result<Description> {
        Ok(Description::default())
    }

    /// What the user is to be warned of (without `warning: `), as the stock tool does when it opens such an image.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Decompresses and decrypts this image's extents; one for each worker. `None`: it has only plain ones.
    fn decoder(&self) -> Option<Box<dyn Decoder + '_>> {
        None
    }

    /// Shows the disk as it was in the internal snapshot with that id or name (`convert -l`).
    fn select_snapshot(&mut self, _id_or_name: &SnapshotSelector) -> Result<()> {
        Err(Error::unsupported("the format has no snapshots"))
    }

    /// Where there is room for the unallocated extent that begins at `at`: device and offset there, for `map` alone.
    fn reserved(&self, _at: u64) -> Result<Option<(DeviceId, FileOffset)>> {
        Ok(None)
    }

    /// Every unit has had its place since the image was made: to `map`, plain data of which the file has only a hole is
    /// zeroes that are stored.
    fn is_preallocated(&self) -> Result<bool> {
        Ok(false)
    }

    /// The files beside its own that it needs, as those that data may lie in: device, and full name.
    fn data_files(&self) -> Vec<(DeviceId, Vec<u8>)> {
        Vec::new()
    }

    /// Checks the metadata. `None`: the format has no check ("does not support checks").
    fn check(&self, _cx: CheckContext<'_>) -> Option<Result<CheckReport>> {
        None
    }

    /// Checks the metadata of an image that was opened to be repaired, and puts right what is wrong with them: what is told of
    /// is what stays, and how much was repaired. Cut anywhere, the image is no worse than it was. `None`: there is no repair.
    fn repair(&mut self, _what: Repairs, _cx: CheckContext<'_>) -> Option<Result<Repaired>> {
        None
    }

    /// Its persistent dirty bitmaps. `None`: the format, or this image's version of it, has none.
    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        None
    }

    /// What `measure`, `check` and the planners need of a concrete format is reached by it, not by name.
    fn cluster_size(&self) -> Option<u64> {
        None
    }
}

/// Which snapshot `-l` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotSelector {
    /// `-l NAME`: its id first, then its name.
    IdOrName(Vec<u8>),
    /// `-l snapshot.id=..,snapshot.name=..`: every given part must match.
    Exact {
        /// The id, if given.
        id: Option<Vec<u8>>,
        /// The name, if given.
        name: Option<Vec<u8>>,
    },
}

/// Turns stored bytes into disk bytes. Holds a worker's own codec state.
pub trait Decoder {
    /// Decompresses the unit `compressed` whose stored bytes are `stored` (at least as long as they are, at most
    /// `compressed.len`) into `out`, which is `compressed.unit` bytes long.
    fn decompress(&mut self, compressed: &Compressed, stored: &[u8], out: &mut [u8]) -> Result<()>;
    /// Bytes that are encrypted together; the place of an encrypted extent is a multiple of them.
    fn unit(&self) -> u64 {
        512
    }
    /// Decrypts `data`, whole units, in place; it begins at `at` in the virtual disk and at `offset` in its device.
    fn decrypt(&mut self, _at: u64, _offset: FileOffset, _data: &mut [u8]) -> Result<()> {
        Err(Error::unsupported("encrypted data cannot be read"))
    }
}
