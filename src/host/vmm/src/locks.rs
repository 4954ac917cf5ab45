//! The byte-range locks by which QEMU's programs keep off each other's images (QEMU's file driver): open file
//! description locks on bytes 100 and up (what a program does) and 200 and up (what it cannot bear others to do).

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use instar_abi::ring::LOCK_SHARED;

const DOES: i64 = 100;
const FORBIDS: i64 = 200;

/// A permission: its bit is its place in both ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permission {
    ConsistentRead = 0,
    Write = 1,
    Resize = 3,
}

use Permission::{ConsistentRead, Resize, Write};

impl Permission {
    /// As QEMU's message names it.
    const fn name(self) -> &'static str {
        match self {
            ConsistentRead => "consistent read",
            Write => "write",
            Resize => "resize",
        }
    }
}

/// Another program does not allow it; shown as the message that QEMU's tools print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locked {
    permission: Permission,
    /// It is others who would have it.
    shared: bool,
}

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = if self.shared { "shared " } else { "" };
        write!(f, "Failed to get {shared}\"{}\" lock", self.permission.name())
    }
}

impl Locked {
    /// As a number, for another process and for the guest ([`Status::Locked`](instar_abi::ring::Status::Locked)).
    #[must_use]
    pub const fn code(self) -> u32 {
        self.permission as u32 | if self.shared { LOCK_SHARED } else { 0 }
    }

    /// The same from its number.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        let of = |permission: &Permission| *permission as u32 == code & !LOCK_SHARED;
        let permission = [ConsistentRead, Write, Resize].into_iter().find(of)?;
        Some(Self { permission, shared: code & LOCK_SHARED != 0 })
    }
}

/// Locks a source: nobody may write to or resize it meanwhile.
///
/// # Errors
/// Another program does.
pub fn lock_for_read(file: &File) -> Result<(), Locked> {
    lock(file, &[ConsistentRead], &[Write, Resize])
}

/// Locks a source as [`lock_for_read`] does, unless another program has it open to write: then it is read with that, and
/// true is returned. What bears that (a raw image) is for whoever reads it to know.
///
/// # Errors
/// Another program forbids that it is read.
pub fn lock_beside_writers(file: &File) -> Result<bool, Locked> {
    match lock_for_read(file) {
        Err(Locked { shared: true, .. }) => {
            for byte in [Write, Resize].map(|p| FORBIDS + p as i64) {
                // The writer is not kept from opening it once more, either.
                let _ = set(file, byte, libc::F_UNLCK);
            }
            Ok(true)
        }
        locked => locked.map(|()| false),
    }
}

/// Locks a source that others may write to and resize meanwhile.
///
/// # Errors
/// Another program forbids that it is read.
pub fn lock_to_share(file: &File) -> Result<(), Locked> {
    lock(file, &[ConsistentRead], &[])
}

/// Locks a target: nobody else may read or write it meanwhile.
///
/// # Errors
/// Another program does.
pub fn lock_for_write(file: &File) -> Result<(), Locked> {
    lock(file, &[ConsistentRead, Write, Resize], &[Write, Resize])
}

/// Locks first and looks then, as QEMU does, so that of two programs that do so at once at most one goes on.
fn lock(file: &File, does: &[Permission], forbids: &[Permission]) -> Result<(), Locked> {
    for byte in does.iter().map(|p| DOES + *p as i64).chain(forbids.iter().map(|p| FORBIDS + *p as i64)) {
        match set(file, byte, libc::F_RDLCK) {
            // Somebody holds an exclusive lock, or the file system has no locks: QEMU's own programs only ever
            // share, so the tests below decide.
            Ok(()) | Err(_) => {}
        }
    }
    for permission in does {
        if is_held(file, FORBIDS + *permission as i64) {
            return Err(Locked { permission: *permission, shared: false });
        }
    }
    for permission in forbids {
        if is_held(file, DOES + *permission as i64) {
            return Err(Locked { permission: *permission, shared: true });
        }
    }
    Ok(())
}

fn range(kind: libc::c_int, byte: i64) -> libc::flock {
    // SAFETY: a plain structure of numbers, for which zero is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = byte;
    range.l_len = 1;
    range
}

fn set(file: &File, byte: i64, kind: libc::c_int) -> io::Result<()> {
    let range = range(kind, byte);
    // SAFETY: the descriptor is open and the structure is the one that the call takes.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether another open file holds a lock there.
fn is_held(file: &File, byte: i64) -> bool {
    let mut range = range(libc::F_WRLCK, byte);
    // SAFETY: as in `set`.
    let ok = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut range) } == 0;
    ok && range.l_type != libc::F_UNLCK as libc::c_short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (File, File, std::path::PathBuf) {
        let path =
            std::env::temp_dir().join(format!("instar-locks-{}-{:?}", std::process::id(), std::thread::current().id()));
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).expect("a file");
        (open(), open(), path.clone())
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let (a, b, path) = two();
        lock_for_read(&a).expect("the first reader");
        lock_for_read(&b).expect("the second reader");
        drop(b);
        let c = File::options().read(true).write(true).open(&path).expect("a file");
        let says = |result: Result<(), Locked>| result.expect_err("somebody has it").to_string();
        assert_eq!(says(lock_for_write(&c)), "Failed to get \"write\" lock");
        drop(a);
        drop(c);
        let (d, e, _) = two();
        lock_for_write(&d).expect("the only one");
        assert_eq!(says(lock_for_read(&e)), "Failed to get shared \"write\" lock");
        assert_eq!(lock_beside_writers(&e), Ok(true));
        assert!(is_held(&d, DOES + ConsistentRead as i64));
        assert!(!is_held(&d, FORBIDS + Write as i64) && !is_held(&d, FORBIDS + Resize as i64));
        drop(d);
        assert_eq!(lock_beside_writers(&e), Ok(false));
        let (f, g, _) = two();
        assert_eq!(says(lock_for_write(&f)), "Failed to get \"write\" lock");
        drop((e, f));
        lock_to_share(&g).expect("nobody else");
        let (h, ..) = two();
        assert_eq!(lock(&h, &[ConsistentRead, Write], &[]), Ok(()));
        for shared in [false, true] {
            for permission in [ConsistentRead, Write, Resize] {
                let locked = Locked { permission, shared };
                assert_eq!(Locked::from_code(locked.code()), Some(locked));
            }
        }
        assert_eq!(Locked::from_code(2), None);
        std::fs::remove_file(path).expect("it was made here");
    }
}
