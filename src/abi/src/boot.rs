//! What the guest is told before its first instruction.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First field of [`BootInfo`]: "INSTAR\0\1", little-endian.
pub const BOOT_MAGIC: u64 = u64::from_le_bytes(*b"INSTAR\0\x01");

/// How the guest asks for service: an `out` of one byte to [`DOORBELL_PORT`] (KVM backend).
pub const DOORBELL_PORT_IO: u32 = 0;
/// How the guest asks for service: `write` of one byte to, then `read` of one byte from, file
/// descriptor [`DOORBELL_FD`] (process backend).
pub const DOORBELL_SYSCALL: u32 = 1;
/// The exit status of a process that may not use that one.
pub const DOORBELL_DENIED: u32 = 109;

/// The only I/O port that the guest's TSS lets through.
pub const DOORBELL_PORT: u16 = 0x510;
/// The only file descriptor that a worker of the process backend holds.
pub const DOORBELL_FD: u32 = 0;

/// Most workers (vCPUs or processes) that a sandbox may have.
pub const MAX_WORKERS: u32 = 64;
/// What a worker needs of the guest's memory at a time, in bytes: a job's data read and decompressed, looked at, compressed.
pub const WORKER_MEMORY: u64 = 16 << 20;

/// CPU features the guest may use beyond its build's baseline; a bit set in [`BootInfo::cpu`].
pub const CPU_AVX2: u64 = 1;

/// The boot page. Every address is a guest-virtual address, every length is in bytes.
///
/// A worker enters with `rdi` = address of this struct, `rsi` = its index (0 is the main worker),
/// `rsp` = the top of its own stack (16-byte aligned, below a return address slot as the System V ABI
/// wants it), all other registers zero. Worker 0 runs the command. The others wait ([`crate::ring::Op::Wait`])
/// until it wakes them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootInfo {
    /// [`BOOT_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// [`DOORBELL_PORT_IO`] or [`DOORBELL_SYSCALL`].
    pub doorbell: u32,
    /// Number of workers, 1 to [`MAX_WORKERS`].
    pub workers: u32,
    /// Number of devices open at start; their indices are 0 to `devices - 1`.
    pub devices: u32,
    /// Address of worker 0's [`crate::ring::Ring`]; worker `n`'s lies `n * ring_stride` further.
    pub rings: u64,
    /// Distance between two rings.
    pub ring_stride: u64,
    /// Address of the lowest byte of the stack area: worker `n`'s stack lies in `n * stack_stride` to
    /// `(n + 1) * stack_stride` of it, the guard page included, so a worker knows itself by its stack pointer.
    pub stacks: u64,
    /// Distance between two stacks.
    pub stack_stride: u64,
    /// The heap, which is also the I/O area: the buffer of every request must lie wholly inside it.
    pub heap: u64,
    /// Length of the heap.
    pub heap_len: u64,
    /// The command's parameters, a [`crate::record`] stream; read-only to the guest by convention.
    pub params: u64,
    /// Length of the parameters.
    pub params_len: u64,
    /// Bits `CPU_*`.
    pub cpu: u64,
    /// Seconds since 1970 when the command started (for dates that formats record).
    pub now_seconds: u64,
    /// 32 bytes from the kernel's random number generator: the seed of the guest's own, which makes identifiers (uuid,
    /// cid), salts and the keys of new encrypted images.
    pub entropy: [u8; 32],
}

const _: () = assert!(core::mem::size_of::<BootInfo>() == 136);
