//! Symbolic links that are followed by this program rather than by the kernel.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::Stat;
use rustix::io::Errno;

/// How many the kernel follows at most.
pub const LINKS_MAX: usize = 40;

/// Magic number of /proc (statfs(2)).
pub const PROC_MAGIC: i64 = 0x9fa0;

/// The links of a folder on /proc may be the kernel's own: what such a one reads as is not always where it leads.
pub fn are_the_kernels(folder: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(folder)?.f_type == PROC_MAGIC)
}

/// The kernel's rule (`fs.protected_symlinks`), whether it is switched on or not: in a folder where all may write and none
/// may remove what others own, a link leads only its owner, and everybody if it is the folder's owner's.
pub fn refuse_planted(folder: &OwnedFd, link: &Stat) -> io::Result<()> {
    const STICKY_FOR_ALL: u32 = libc::S_ISVTX | libc::S_IWOTH;
    let above = rustix::fs::fstat(folder)?;
    let for_all = above.st_mode & STICKY_FOR_ALL == STICKY_FOR_ALL;
    let trusted = [above.st_uid, rustix::process::geteuid().as_raw()].contains(&link.st_uid);
    if for_all && !trusted { Err(Errno::ACCESS.into()) } else { Ok(()) }
}
