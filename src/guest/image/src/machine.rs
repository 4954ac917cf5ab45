//! What the guest can do to the world: a few devices by index, and nothing else.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::chain::Node;
use crate::keys::Keys;
use crate::{Error, FileOffset, Kind, Result, Value};

/// Index of an open device (a file or block device of the host).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

pub use instar_abi::beside::folder_len;
pub use instar_abi::ring::{Beside, Role};

/// What is known of a device without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Length in bytes.
    pub len: u64,
    /// Allocated bytes (`st_blocks * 512`).
    pub allocated: u64,
    /// It is a host block device.
    pub block_device: bool,
    /// It may be written.
    pub writable: bool,
    /// The host made it empty for this run, so all of it reads as zeroes.
    pub fresh: bool,
    /// Another program has it open to write.
    pub contended: bool,
    /// It does not answer as memory does: several requests should be under way.
    pub slow: bool,
    /// Its file system shares blocks between files, as far as is known: what is copied from it may cost nothing.
    pub shares: bool,
    /// The first device that is the same file: itself, unless the file was opened by two names.
    pub same_file: DeviceId,
    /// The file system is asked to allocate so many bytes of the file at once; 0: nothing is asked.
    pub extent_size_hint: u64,
    /// Alignment in bytes that requests must have (1 unless opened with `O_DIRECT`; the host aligns by itself,
    /// this only tells what is efficient).
    pub alignment: u32,
}

impl Stat {
    /// Behind its last byte.
    #[must_use]
    pub const fn end(&self) -> FileOffset {
        FileOffset::new(self.len)
    }
}

/// One read of a batch; what lies past the end of the device reads as zeroes.
#[derive(Debug)]
pub struct Read<'a> {
    /// The device.
    pub device: DeviceId,
    /// Where it begins.
    pub offset: FileOffset,
    /// Where to.
    pub buf: &'a mut [u8],
}

/// A run of data or hole, as the host's file system tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Length in bytes.
    pub len: u64,
    /// Data; else a hole, which reads as zeroes.
    pub data: bool,
}

/// Two ranges of the same length in bytes, each by its device and where it begins there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangePair {
    /// One.
    pub a: (DeviceId, FileOffset),
    /// The other.
    pub b: (DeviceId, FileOffset),
    /// How long both are.
    pub len: u64,
}

/// What computes.
pub trait Parallel: Sync {
    /// Calls `body` with each number below `count`, on as many workers as there are.
    fn each(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(body);
    }
}

/// One worker, this one.
pub struct Alone;

impl Parallel for Alone {}

/// Reading: what an image parser gets, and all that it gets.
pub trait Source: Parallel {
    /// What is known of a device.
    fn stat(&self, device: DeviceId) -> Result<Stat>;
    /// Reads, as few crossings to the host as possible.
    fn read_many(&self, reads: &mut [Read<'_>]) -> Result<()>;
    /// Reads once; zeroes past the end of the device.
    fn read(&self, device: DeviceId, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        self.read_many(&mut [Read { device, offset, buf }])
    }
    /// Data and holes from `offset` on for at most `len` bytes; returns the offset that `runs` (appended to,
    /// a bounded number) reaches.
    fn runs(&self, device: DeviceId, offset: FileOffset, len: u64, runs: &mut Vec<Run>) -> Result<FileOffset>;
    /// The program was called by the stock tool's name: what that cannot read, or reads in another way, is not to be
    /// read better.
    fn is_stock(&self) -> bool {
        false
    }
    /// The secret that `--object secret,id=..` gave.
    fn secret(&self, _id: &str) -> Option<&[u8]> {
        None
    }
    /// What secrets have opened before.
    fn keys(&self) -> Option<&Keys> {
        None
    }
    /// The image that a device is, where it is no file but what a lower image shows.
    fn node(&self, _device: DeviceId) -> Option<Node<'_>> {
        None
    }
    /// Why a device that is no file but what a lower image shows cannot be as long as that, if it cannot.
    fn keeps_length(&self, _device: DeviceId, _to: u64) -> Option<Error> {
        None
    }
    /// The lengths of the pairs' equal beginnings. Past the end of a device is zeroes. The host compares; nothing is read
    /// into the guest.
    fn equal_prefixes(&self, pairs: &[RangePair], equal: &mut [u64]) -> Result<()>;
}

/// Refuses a file, shown as `name`, that another program has open to write.
///
/// # Errors
/// As the stock tool says it.
pub fn alone(source: &dyn Source, device: DeviceId, name: &[u8]) -> Result<()> {
    if source.stat(device)?.contended { Err(has_a_writer(name)) } else { Ok(()) }
}

/// What is said of a file, shown as `name`, that another program has open to write.
#[must_use]
pub fn has_a_writer(name: &[u8]) -> Error {
    Error::new(Kind::Io(EAGAIN), in_use("Failed to get shared \"write\" lock", name))
}

/// What the stock tool says of a file that it cannot get that lock of.
#[must_use]
pub fn in_use(lock: &str, name: &[u8]) -> String {
    format!("{lock}\nIs another process using the image [{}]?", display_name(name))
}

/// An image's further file, shown as `name`, that could not be opened.
#[must_use]
pub fn not_opened(error: Error, name: &[u8]) -> Error {
    if error.kind == Kind::Io(EAGAIN) {
        return Error::new(error.kind, in_use(&error.message, name));
    }
    error.context(format!("Could not open '{}'", display_name(name)))
}

/// The error number of what another program has locked.
pub const EAGAIN: u32 = 11;

/// What becomes of runs of zeroes that are copied, in units of so many bytes of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroes {
    /// They are written.
    Copied,
    /// They are left out: the target reads as zeroes there already.
    Skipped(u32),
    /// The target is made to read as zeroes, without blocks if that can be.
    Unmapped(u32),
}

impl Zeroes {
    /// The units in which they are looked for.
    #[must_use]
    pub const fn unit(self) -> Option<u32> {
        match self {
            Self::Copied => None,
            Self::Skipped(unit) | Self::Unmapped(unit) => Some(unit),
        }
    }
}

/// One change. Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Writes bytes.
    Write { device: DeviceId, offset: FileOffset, data: &'a [u8] },
    /// Copies on the host's side.
    Copy { from: DeviceId, from_offset: FileOffset, to: DeviceId, to_offset: FileOffset, len: u64, zeroes: Zeroes },
    /// Makes a range read as zeroes; `unmap`: it may become a hole.
    Zero { device: DeviceId, offset: FileOffset, len: u64, unmap: bool },
    /// The range is no longer needed.
    Discard { device: DeviceId, offset: FileOffset, len: u64 },
    /// Reserves blocks; `full`: by writing zeroes.
    Allocate { device: DeviceId, offset: FileOffset, len: u64, full: bool },
    /// Sets the length of the device.
    SetLength { device: DeviceId, len: u64 },
    /// Everything before is stable before anything after begins. The only ordering there is: steps between
    /// two barriers may happen in any order.
    Barrier { device: DeviceId },
}

/// Writing: the only way to change anything.
pub trait Sink: Source {
    /// Carries out the steps. Steps of one call without a [`Step::Barrier`] between them may happen in any order.
    fn submit(&self, steps: &[Step<'_>]) -> Result<()>;
}

/// Most bytes of one [`Report::say`].
pub const SAY_MAX: usize = 4096;

/// Most bytes of one [`Report::stream`].
pub const STREAM_MAX: usize = 65536;

/// Opening further files: what a parser of images that name some gets besides.
pub trait Opener: Sync {
    /// Opens what the image on `from` names. The host's policy decides; its refusal is [`crate::Kind::Refused`].
    fn open_named(&self, from: DeviceId, name: &[u8], role: Role, write: bool) -> Result<DeviceId>;
}

/// The workers of a command.
pub trait Workers: Sync {
    /// How many workers may run [`Workers::broadcast`]'s body.
    fn workers(&self) -> usize;
    /// Runs `body(worker)` on every worker at the same time (this one is number 0), returns when all are done. A worker that
    /// comes after this one is done does not begin: the body takes its work from what all share.
    fn broadcast(&self, body: &(dyn Fn(usize) + Sync));
    /// Called again and again by a worker that waits for another; `spins` starts at 0. Spins first, then
    /// gives the processor away.
    fn relax(&self, spins: &mut u32);
}

/// Waits for what another worker does: tries until `attempt` has a value. Who waits gives the processor away, since the other one
/// may wait for a disk.
pub fn until<T>(workers: &(impl Workers + ?Sized), mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut spins = 0;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        workers.relax(&mut spins);
    }
}

/// What is told while a command runs, and when it is done.
pub trait Report: Sync {
    /// `done` of `total` bytes of work are done. Cheap: rate-limited by the implementation.
    fn progress(&self, done: u64, total: u64);
    /// Text that the user sees at once, on standard error: at most [`SAY_MAX`] bytes, line ends and all.
    fn say(&self, text: &str) -> Result<()>;
    /// Whole records of a fixed size that the host renders at once: at most [`STREAM_MAX`] bytes.
    fn stream(&self, records: &[u8]) -> Result<()>;
    /// Adds to the result that the host renders.
    fn emit(&self, key: &str, value: &Value) -> Result<()>;
}

/// What a command finds in the world beside files.
pub trait Environment: Sync {
    /// Seconds since 1970 at the start of the command.
    fn now_seconds(&self) -> u64;
    /// Nanoseconds since the run began.
    fn clock(&self) -> Result<u64>;
    /// Fills `bytes` with random ones that nobody can guess: keys are made of them.
    fn random(&self, bytes: &mut [u8]);
    /// Random bytes for an identifier.
    fn random_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        self.random(&mut id);
        id
    }
}

/// All that a command has. Implemented by the entry crate over the ring, and by the simulator in memory.
pub trait Machine: Sink + Opener + Workers + Report + Environment {
    /// This trait object as its readable half.
    fn source(&self) -> &dyn Source;
    /// Makes an empty file beside the new one on `target`; the host makes its name ([`Beside::name`]).
    fn create_beside(&self, target: DeviceId, kind: Beside, number: u64) -> Result<DeviceId>;
    /// No name will be opened any more, and no file be made.
    fn seal(&self) -> Result<()>;
}

/// A name of a file for messages: names are not always UTF-8, and none begins a new line, which might pass for the host's
/// word.
#[must_use]
pub fn display_name(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace('\n', "\\x0a")
}
