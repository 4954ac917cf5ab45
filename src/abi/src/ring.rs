//! Requests, replies, and the ring that carries them.
//!
//! A worker fills slots `0..count` of its own ring, stores `count`, and rings the doorbell; when the
//! doorbell returns, the replies `0..count` are there. The requests of one batch may be served in any
//! order and at the same time: what must be ordered goes into two batches, or is divided by
//! [`Op::Flush`] in a batch of its own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most requests in one batch.
pub const BATCH_MAX: usize = 256;

/// One request, 64 bytes. What each field means is said at the [`Op`]; unused fields are zero, and the
/// host refuses a request whose unused fields are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// An [`Op`].
    pub op: u16,
    /// Bits `FLAG_*`, as far as the operation has any.
    pub flags: u16,
    /// Device index.
    pub dev: u32,
    /// Byte offset in `dev`.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Guest-virtual address of the buffer; it lies in the heap.
    pub buf: u64,
    /// Length of the buffer in bytes, where it is not `len`.
    pub buf_len: u64,
    /// Second device index.
    pub dev2: u32,
    /// Small argument: granularity (bytes, a power of two), role or level.
    pub arg: u32,
    /// Byte offset in `dev2`.
    pub offset2: u64,
    /// Must be zero.
    pub reserved: u64,
}

/// One reply, 32 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// A [`Status`].
    pub status: u32,
    /// The host's errno, where `status` is [`Status::Io`].
    pub errno: u32,
    /// What the operation says it returns.
    pub value: u64,
    /// A second value.
    pub value2: u64,
    /// A third value.
    pub value3: u64,
}

/// A worker's ring: one batch.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ring {
    /// How many requests the batch holds, 1 to [`BATCH_MAX`].
    pub count: u32,
    /// Must be zero.
    pub reserved: [u32; 15],
    /// The requests.
    pub requests: [Request; BATCH_MAX],
    /// Their replies, in the same places.
    pub replies: [Reply; BATCH_MAX],
}

const _: () = assert!(core::mem::size_of::<Request>() == 64);
const _: () = assert!(core::mem::size_of::<Reply>() == 32);
const _: () = assert!(core::mem::size_of::<Ring>() == 64 + BATCH_MAX * 96);

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident: $repr:ty { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($repr)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)+ }
        impl $name {
            /// The value's meaning, or `None` where it has none.
            #[must_use]
            pub const fn from_wire(value: $repr) -> Option<Self> {
                match value { $($value => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

numbered! {
    /// The closed set of what a guest can ask for. It is the attack surface: keep it small. Numbers are
    /// part of the ABI and never used again for something else.
    Op: u16 {
        /// `dev offset len buf`: reads `len` bytes into `buf`; what lies past the end of the device
        /// reads as zeroes. Returns in `value` how many bytes the device really had.
        Read = 1,
        /// `dev offset len buf`: writes. The device grows up to its growth limit.
        Write = 2,
        /// `dev offset len` to `dev2 offset2`: copies without passing through the guest; what lies past the end
        /// of the source is zeroes. [`FLAG_SKIP_ZERO`]: a run of zeroes is not written, in units of `arg`
        /// bytes of the target (0: 4096); the guest says so only where the target reads as zeroes already.
        /// Holes of the source are then not read at all. With [`FLAG_UNMAP`] as well, such runs and holes are made to read
        /// as zeroes, without blocks if that can be. Without [`FLAG_SKIP_ZERO`] every byte of the target is written,
        /// zeroes too (reflinks where the file system can). Returns in `value` how many bytes were written.
        Copy = 3,
        /// `dev offset len`: makes the range read as zeroes. [`FLAG_UNMAP`]: it may become a hole;
        /// [`FLAG_ALLOCATE`]: its blocks must be allocated afterwards.
        WriteZeroes = 4,
        /// `dev offset len`: the range is no longer needed. A hint: never fails for lack of support.
        Discard = 5,
        /// `dev`: everything written so far is on stable storage (as the cache mode says).
        Flush = 6,
        /// `dev len`: sets the device's length.
        SetLength = 7,
        /// `dev offset len`: reserves blocks (fallocate) without changing what is read; the device grows where
        /// needed. [`FLAG_FULL`]: zeroes are really written.
        Allocate = 8,
        /// `dev offset len buf buf_len`: where data and holes lie, as [`ExtentEntry`]s from `offset` on.
        /// Returns in `value` the number of entries and in `value2` the offset that they reach.
        Extents = 9,
        /// `dev offset len` with `dev2 offset2`: returns in `value` the number of leading bytes that are equal
        /// (`len` if all are). Past the end of either is zeroes.
        Compare = 11,
        /// `dev buf buf_len arg=Role flags`: opens the file that device `dev`'s image names (`buf`, bytes as
        /// stored, no NUL). The host's policy decides. [`FLAG_WRITE`]: for writing too. Returns in
        /// `value` the new device index.
        OpenNamed = 12,
        /// `dev`: `value` = length in bytes, `value2` = allocated bytes, `value3` = bits `STAT_*`, from
        /// bit [`STAT_SAME_FILE_SHIFT`] on the first device that is the same file, from [`STAT_HINT_SHIFT`] on the
        /// file's extent size hint, and from [`STAT_ALIGNMENT_SHIFT`] on the required alignment.
        Stat = 13,
        /// `offset len`: `offset` of `len` units of work are done.
        Progress = 14,
        /// `arg=level buf buf_len`: [`LOG_LINES`]: lines that the user is to see; [`LOG_RECORDS`]: records.
        Log = 15,
        /// `buf buf_len`: appends to the result stream (a [`crate::record`] stream; batches of `Emit`s
        /// are appended in the order of their slots).
        Emit = 16,
        /// The chain stands: no `OpenNamed` and no `CreateBeside` will follow, and the host gives up the right to open.
        Seal = 17,
        /// `len`: the worker sleeps until it has been woken once more often than it has waited, or for at most
        /// `len` microseconds (0: no bound).
        Wait = 18,
        /// `arg`: wakes worker `arg`.
        Wake = 19,
        /// `arg`: the command is over with this exit status (0 to 255). Never returns.
        Finish = 20,
        /// `arg buf buf_len`: the guest panicked; the bytes say where. `arg` 1: it ran out of memory. Never returns.
        Panic = 21,
        /// `dev arg=Beside len`: makes file number `len` of that kind beside the new file `dev`, empty and as writable as
        /// that. The host makes its name from that file's ([`Beside::name`]). Returns in `value` the new device index.
        CreateBeside = 22,
        /// Returns in `value` the nanoseconds since the run began, by a clock that never goes back.
        Clock = 23,
    }
}

/// [`Op::Log`]: text for standard error as it comes, line ends and all; it may end within a line.
pub const LOG_LINES: u32 = 1;
/// [`Op::Log`]: whole records of a fixed size, to be rendered as they come; which, the command knows.
pub const LOG_RECORDS: u32 = 2;

/// [`Op::Copy`]: do not write runs of zeroes.
pub const FLAG_SKIP_ZERO: u16 = 1;
/// [`Op::WriteZeroes`]: the range may become a hole.
pub const FLAG_UNMAP: u16 = 2;
/// [`Op::WriteZeroes`]: the range is allocated afterwards.
pub const FLAG_ALLOCATE: u16 = 4;
/// [`Op::Allocate`]: write zeroes rather than reserve.
pub const FLAG_FULL: u16 = 8;
/// [`Op::OpenNamed`]: for writing as well as reading.
pub const FLAG_WRITE: u16 = 16;

/// [`Status::Locked`]: the permission is one that others have.
pub const LOCK_SHARED: u32 = 16;

/// [`Op::Stat`]: the device is a block device.
pub const STAT_BLOCK_DEVICE: u64 = 1;
/// [`Op::Stat`]: the device may be written.
pub const STAT_WRITABLE: u64 = 2;
/// [`Op::Stat`]: the host made it empty for this run: all of it reads as zeroes.
pub const STAT_FRESH: u64 = 4;
/// [`Op::Stat`]: another program has it open to write: it is read as it is, which not every image bears.
pub const STAT_CONTENDED: u64 = 8;
/// [`Op::Stat`]: it does not answer as memory does: several requests should be under way.
pub const STAT_SLOW: u64 = 16;
/// [`Op::Stat`]: its file system shares blocks between files, as far as is known: what is copied from it may cost nothing.
pub const STAT_SHARES: u64 = 32;
/// [`Op::Stat`]: a device index of 24 bits begins here.
pub const STAT_SAME_FILE_SHIFT: u32 = 8;
/// [`Op::Stat`]: a number of sectors of 512 bytes, in 24 bits, begins here.
pub const STAT_HINT_SHIFT: u32 = 32;
/// [`Op::Stat`]: the logarithm to base 2 of a number of bytes begins here.
pub const STAT_ALIGNMENT_SHIFT: u32 = 56;

numbered! {
    /// Why an image names a file: the policy and the messages differ.
    Role: u32 {
        /// The image's backing file, or a differencing image's parent.
        Backing = 1,
        /// A qcow2 external data file.
        DataFile = 2,
        /// An extent of a vmdk.
        Extent = 3,
    }
}

numbered! {
    /// A file that a new image has besides its own. Numbers begin at 1.
    Beside: u32 {
        /// The only one with all of the disk: `disk-flat.vmdk`.
        Flat = 1,
        /// One of several with a part of the disk each: `disk-f001.vmdk`.
        SplitFlat = 2,
        /// The same in grains: `disk-s001.vmdk`.
        SplitSparse = 3,
    }
}

numbered! {
    /// How a request ended.
    Status: u32 {
        /// Done.
        Ok = 0,
        /// The request itself is wrong: unknown operation, reserved field set, bad flag.
        BadRequest = 1,
        /// No such device.
        BadDevice = 2,
        /// Offset and length overflow or lie outside what the operation allows.
        BadRange = 3,
        /// The buffer is not inside the heap.
        BadBuffer = 4,
        /// The device is read-only.
        ReadOnly = 5,
        /// The device would grow past its limit.
        GrowthLimit = 6,
        /// The operating system said no: see `errno`.
        Io = 7,
        /// The policy refuses the name. The same whether the target exists or not.
        Refused = 8,
        /// A file of the chain is in it already.
        Loop = 9,
        /// Too many devices or too deep a chain.
        TooMany = 10,
        /// The name means neither a regular file nor a block device.
        WrongType = 11,
        /// Another program holds a lock on the file. `value`, of [`Op::CreateBeside`]: QEMU's number of the permission
        /// that could not be had (0 consistent read, 1 write, 3 resize), with [`LOCK_SHARED`] where others have it.
        Locked = 12,
        /// Asked for after [`Op::Seal`].
        Sealed = 13,
    }
}

/// One run of [`Op::Extents`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExtentEntry {
    /// Length of the run in bytes.
    pub len: u64,
    /// 1 where there is data, 0 for a hole (which reads as zeroes).
    pub data: u64,
}
