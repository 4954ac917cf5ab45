//! The guest's page tables and its TSS, in memory of their own that no guest-virtual address maps for the guest.
//! (AMD64 Architecture Programmer's Manual volume 2, sections 5.3 and 12.2.)

use std::io;

use crate::layout::{PAGE, RW_BASE};

const ENTRIES: usize = 512;
const HUGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
/// Set from the start, as nobody asks for them: a kernel that keeps tables of its own then need not follow each first
/// access, and fills in the neighbours of a page with it.
const USED: u64 = ACCESSED | DIRTY;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Guest-physical address of this memory: no guest-virtual address that ring 3 may use is mapped to it.
pub const TABLES_GPA: u64 = 0x1000;

/// What the guest may do with a range. Nothing is both written and executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and execute.
    Execute,
    /// Read.
    Read,
    /// Read and write.
    Write,
}

/// Tables under construction; then a memory slot.
#[derive(Debug)]
pub struct PageTables {
    at: *mut u64,
    pages: usize,
    used: usize,
}

impl PageTables {
    /// Room for the tables of a program below [`RW_BASE`] and `region_len` bytes from there on.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(region_len: u64) -> io::Result<Self> {
        // Root, one directory pointer table, one directory a GiB; small pages only for the program and what is
        // before the heap: a table per 2 MiB of those, plenty. And the TSS.
        const SMALL_TABLES: usize = 40;
        let pages = 2 + 1 + region_len.div_ceil(GIB) as usize + 1 + SMALL_TABLES + 1;
        let (len, rights) = (pages * PAGE as usize, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), len, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Page 0 is the TSS, page 1 the root.
        Ok(Self { at: at.cast(), pages, used: 2 })
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.pages as u64 * PAGE
    }

    /// Address in this process.
    #[must_use]
    pub fn host_addr(&self) -> u64 {
        self.at as u64
    }

    /// Guest-physical address of the root.
    #[must_use]
    pub const fn root() -> u64 {
        TABLES_GPA + PAGE
    }

    fn entry(&mut self, page: usize, index: usize) -> &mut u64 {
        assert!(page < self.pages && index < ENTRIES);
        // SAFETY: inside the mapping, aligned; `&mut self` makes it the only reference, and the guest does not
        // run yet.
        unsafe { &mut *self.at.add(page * ENTRIES + index) }
    }

    /// The table below an entry, made if it is not there.
    fn below(&mut self, page: usize, index: usize) -> usize {
        let entry = *self.entry(page, index);
        if entry & PRESENT != 0 {
            return ((entry & FRAME) - TABLES_GPA) as usize / PAGE as usize;
        }
        let next = self.used;
        self.used += 1;
        *self.entry(page, index) = (TABLES_GPA + next as u64 * PAGE) | PRESENT | WRITE | USER | ACCESSED;
        next
    }

    fn directory(&mut self, va: u64) -> usize {
        let pointers = self.below(1, (va >> 39) as usize % ENTRIES);
        self.below(pointers, (va >> 30) as usize % ENTRIES)
    }

    fn map_page(&mut self, va: u64, entry: u64) {
        let directory = self.directory(va);
        let table = self.below(directory, (va >> 21) as usize % ENTRIES);
        *self.entry(table, (va >> 12) as usize % ENTRIES) = entry;
    }

    /// Maps `len` bytes of guest-physical memory at `gpa` to `va`, for ring 3.
    pub fn map(&mut self, va: u64, gpa: u64, len: u64, access: Access) {
        let rights = match access {
            Access::Execute => PRESENT | USED | USER,
            Access::Read => PRESENT | USED | USER | NO_EXECUTE,
            Access::Write => PRESENT | USED | USER | NO_EXECUTE | WRITE,
        };
        let mut done = 0;
        while done < len {
            let (va, gpa) = (va + done, gpa + done);
            if va % HUGE == 0 && gpa % HUGE == 0 && len - done >= HUGE && va >= RW_BASE {
                let directory = self.directory(va);
                *self.entry(directory, (va >> 21) as usize % ENTRIES) = gpa | rights | LARGE;
                done += HUGE;
            } else {
                self.map_page(va, gpa | rights);
                done += PAGE;
            }
        }
    }

    /// Fills the TSS (page 0), lets ring 3 use `port` and no other, and maps it at `va` for the processor only.
    pub fn map_tss(&mut self, va: u64, port: u16) {
        const IO_MAP_BASE: u16 = 104;
        let mut tss = [0u8; PAGE as usize];
        tss[102..104].copy_from_slice(&IO_MAP_BASE.to_le_bytes());
        let map = &mut tss[usize::from(IO_MAP_BASE)..];
        map.fill(0xff);
        map[usize::from(port / 8)] &= !(1 << (port % 8));
        // SAFETY: page 0 of the mapping, which `new` set aside for it.
        unsafe { std::ptr::copy_nonoverlapping(tss.as_ptr(), self.at.cast(), tss.len()) };
        self.map_page(va, TABLES_GPA | PRESENT | USED | WRITE | NO_EXECUTE);
    }

    /// The TSS's limit: the byte of `port` and the one after it, no further: ports beyond are all forbidden.
    #[must_use]
    pub fn tss_limit(port: u16) -> u32 {
        104 + u32::from(port / 8) + 1
    }
}

impl Drop for PageTables {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { libc::munmap(self.at.cast(), self.pages * PAGE as usize) };
    }
}
