//! The guest's text where no page may be made executable later (`MemoryDenyWriteExecute` of hardened services): a memory
//! file that nobody can change any more, mapped executable from the start.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SealFlags;

use crate::elf::Program;
use crate::layout::PAGE;
use crate::memory::memory_file;

/// The file; none where the pages of this executable itself will do, which need no copy.
///
/// # Errors
/// The kernel's.
pub fn sealed(program: &Program<'_>) -> io::Result<Option<File>> {
    if pages_become_executable() {
        return Ok(None);
    }
    let file = File::from(memory_file(c"instar-text", program.text.len.next_multiple_of(PAGE))?);
    file.write_all_at(program.text_bytes(), 0)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(Some(file))
}

/// Whether a page that was not executable can be made so: tried with one that is empty.
fn pages_become_executable() -> bool {
    // SAFETY: a new page at an address of the kernel's choice, gone again before anything could use it.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), PAGE as usize, libc::PROT_READ, flags, -1, 0);
        let can =
            page != libc::MAP_FAILED && libc::mprotect(page, PAGE as usize, libc::PROT_READ | libc::PROT_EXEC) == 0;
        if page != libc::MAP_FAILED {
            libc::munmap(page, PAGE as usize);
        }
        can
    }
}
