//! The memory that guest and host share: the guest's writable memory, seen from the host.
//!
//! The guest may change any byte of it at any time, so no reference to it is ever formed: requests are copied
//! out whole, bulk data goes between files and raw addresses by the kernel.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use instar_abi::ring::{BATCH_MAX, Reply, Request, Ring};

use crate::layout::{Layout, RW_BASE};

/// How the memory is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private to this process: what a virtual machine gets.
    Anonymous,
    /// A memory file that child processes map too.
    File,
}

/// The host's mapping.
#[derive(Debug)]
pub struct Shared {
    base: *mut u8,
    mapped: (*mut libc::c_void, usize),
    file: Option<OwnedFd>,
    layout: Layout,
}

// SAFETY: the mapping lives as long as the value, and every access is a volatile copy or a system call on raw
// addresses: threads may do that at the same time, as the guest does anyway.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

const HUGE: usize = 2 << 20;

impl Shared {
    /// Maps memory for `layout`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(layout: Layout, backing: Backing) -> io::Result<Self> {
        let len = layout.len as usize;
        let file = match backing {
            Backing::Anonymous => None,
            Backing::File => Some(memory_file(c"instar-guest", layout.len)?),
        };
        // Room to align the start as the guest's view is aligned, so that huge pages fit.
        let room = len + HUGE;
        let (flags, fd) = match &file {
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1),
            Some(file) => (libc::MAP_SHARED | libc::MAP_NORESERVE, file.as_raw_fd()),
        };
        // SAFETY: a new mapping at an address of the kernel's choice. Past a file's end nothing is ever touched.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let skip = if file.is_some() { 0 } else { at.addr().next_multiple_of(HUGE) - at.addr() };
        let shared = Self { base: at.cast::<u8>().wrapping_add(skip), mapped: (at, room), file, layout };
        if backing == Backing::Anonymous {
            // Not its beginning, nor its end, where the allocator leaves a mark: a command that needs little memory
            // would wait for a huge page to be cleared.
            let heap = shared.at(shared.layout.heap).wrapping_add(HUGE);
            let len = (shared.layout.heap_len as usize).saturating_sub(2 * HUGE);
            // SAFETY: the range lies in the mapping just made, or is empty. Only advice: failure is of no consequence.
            unsafe { libc::madvise(heap.cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(shared)
    }

    /// Where things lie.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The memory file, for [`Backing::File`].
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(std::os::fd::AsFd::as_fd)
    }

    /// The host's address of guest address `va`, which lies in the region.
    pub(crate) fn at(&self, va: u64) -> *mut u8 {
        debug_assert!(va >= RW_BASE && va - RW_BASE <= self.layout.len);
        self.base.wrapping_add((va - RW_BASE) as usize)
    }

    /// Has the pages made that every command will touch, at once and not one by one: a kernel that keeps page tables of
    /// its own for a virtual machine then fills in the neighbours of a page with it.
    pub(crate) fn prepare(&self) {
        const STACK: u64 = 16 << 10;
        const HEAP: u64 = 128 << 10;
        let layout = &self.layout;
        let (_, top) = layout.stack(0);
        for (from, to) in
            [(layout.boot, layout.stacks), (top - STACK, top), (layout.heap, layout.heap + HEAP.min(layout.heap_len))]
        {
            // SAFETY: the range lies in the mapping, in whole pages. Only advice: what an older kernel refuses is made
            // when it is touched.
            unsafe { libc::madvise(self.at(from).cast(), (to - from) as usize, libc::MADV_POPULATE_WRITE) };
        }
    }

    /// Fills memory before the guest runs.
    pub(crate) fn fill(&self, va: u64, bytes: &[u8]) {
        assert!(va >= RW_BASE && va - RW_BASE + bytes.len() as u64 <= self.layout.len, "the layout has room for it");
        // SAFETY: the range lies in the mapping, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(va), bytes.len()) };
    }

    fn ring(&self, worker: u32) -> *mut Ring {
        self.at(self.layout.rings + u64::from(worker) * self.layout.ring_stride).cast()
    }

    /// How many requests worker `worker` says that it submits; not yet checked.
    #[must_use]
    pub fn ring_count(&self, worker: u32) -> u32 {
        // SAFETY: the ring lies in the mapping and is aligned; the value is copied once.
        unsafe { (&raw const (*self.ring(worker)).count).read_volatile() }
    }

    /// A copy of a request. What the guest changes afterwards changes nothing here.
    #[must_use]
    pub fn request(&self, worker: u32, slot: usize) -> Request {
        assert!(slot < BATCH_MAX);
        // SAFETY: the slot lies in the ring, the ring in the mapping; every bit pattern is a request.
        unsafe { (&raw const (*self.ring(worker)).requests).cast::<Request>().add(slot).read_volatile() }
    }

    /// Writes a reply.
    pub fn set_reply(&self, worker: u32, slot: usize, reply: Reply) {
        assert!(slot < BATCH_MAX);
        // SAFETY: as in `request`.
        unsafe { (&raw mut (*self.ring(worker)).replies).cast::<Reply>().add(slot).write_volatile(reply) };
    }

    /// The part of the heap at guest address `addr`; `None` unless all of it lies in the heap.
    #[must_use]
    pub fn heap(&self, addr: u64, len: u64) -> Option<HeapSlice<'_>> {
        let inside = addr.checked_sub(self.layout.heap)?;
        let end = inside.checked_add(len)?;
        (end <= self.layout.heap_len).then(|| HeapSlice { at: self.at(addr), len: len as usize, memory: PhantomData })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and no slice outlives the value.
        unsafe { libc::munmap(self.mapped.0, self.mapped.1) };
    }
}

/// A file in memory of that length, never a program: it cannot be started.
pub(crate) fn memory_file(name: &std::ffi::CStr, len: u64) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the result is checked.
    let make = |flags| unsafe { libc::memfd_create(name.as_ptr(), flags) };
    let mut fd = make(flags | libc::MFD_NOEXEC_SEAL);
    if fd < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        // A kernel before 6.3.
        fd = make(flags);
    }
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::fs::ftruncate(&fd, len)?;
    Ok(fd)
}

/// Part of the guest's heap: an address and a length, never a reference.
#[derive(Clone, Copy, Debug)]
pub struct HeapSlice<'a> {
    at: *mut u8,
    len: usize,
    memory: PhantomData<&'a Shared>,
}

// SAFETY: as for the memory that it is part of.
unsafe impl Send for HeapSlice<'_> {}
// SAFETY: as above.
unsafe impl Sync for HeapSlice<'_> {}

fn times(done: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

impl HeapSlice<'_> {
    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The part from `from` on.
    #[must_use]
    pub fn skip(&self, from: usize) -> Self {
        let from = from.min(self.len);
        Self { at: self.at.wrapping_add(from), len: self.len - from, memory: PhantomData }
    }

    /// The part of at most `len` bytes from `from` on.
    #[must_use]
    pub fn part(&self, from: usize, len: usize) -> Self {
        let rest = self.skip(from);
        Self { len: len.min(rest.len), ..rest }
    }

    /// Reads from a file, once: see pread(2).
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_at(&self, file: &impl AsRawFd, offset: u64) -> io::Result<usize> {
        // SAFETY: the range is mapped and writable for as long as the value lives.
        times(unsafe { libc::pread(file.as_raw_fd(), self.at.cast(), self.len, offset.cast_signed()) })
    }

    /// Writes to a file, once: see pwrite(2).
    ///
    /// # Errors
    /// The kernel's.
    pub fn write_at(&self, file: &impl AsRawFd, offset: u64) -> io::Result<usize> {
        // SAFETY: the range is mapped and readable for as long as the value lives.
        times(unsafe { libc::pwrite(file.as_raw_fd(), self.at.cast(), self.len, offset.cast_signed()) })
    }

    /// Fills with zeroes.
    pub fn fill_zero(&self) {
        // SAFETY: the range is mapped and writable.
        unsafe { std::ptr::write_bytes(self.at, 0, self.len) };
    }

    /// Copies in; `from` is at most as long as the slice.
    pub fn copy_from(&self, from: &[u8]) {
        let len = from.len().min(self.len);
        // SAFETY: the range is mapped and writable, and `from` is not part of the guest's memory.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.at, len) };
    }

    /// A copy of all of it.
    #[must_use]
    pub fn to_vec(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        // SAFETY: the range is mapped and readable; the vector has room for it.
        unsafe {
            std::ptr::copy_nonoverlapping(self.at, bytes.as_mut_ptr(), self.len);
            bytes.set_len(self.len);
        }
        bytes
    }
}
