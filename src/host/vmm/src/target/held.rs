//! Whether somebody else has a file open: a program, a loop device, or who started this program.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// As far as it can be seen. `file` is the only descriptor of it that this process has opened itself.
pub fn is_held(file: &File) -> bool {
    lease(file).unwrap_or_else(|_| is_in_proc(file) || is_of_loop_device(file))
}

/// The kernel gives a lease only where it knows of nobody else. Not every file system has leases, nor has everybody the right.
fn lease(file: &File) -> io::Result<bool> {
    let ask = |kind: libc::c_int| {
        // SAFETY: the descriptor is open, and the call takes a number.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // Who opens the file while there is a lease has a signal sent.
    // SAFETY: ignoring a signal needs no handler.
    let before = unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let taken = ask(libc::F_WRLCK);
    if taken.is_ok() {
        let _ = ask(libc::F_UNLCK);
    }
    // SAFETY: it becomes again what it was.
    unsafe { libc::signal(libc::SIGIO, before) };
    match taken {
        Ok(()) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

/// What is in a folder; nothing where it cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// A descriptor of another process, or one that this one was started with.
fn is_in_proc(file: &File) -> bool {
    let Ok(meta) = file.metadata() else { return false };
    let own = PathBuf::from(format!("/proc/{}/fdinfo/{}", std::process::id(), file.as_raw_fd()));
    let line = format!("ino:\t{}", meta.ino());
    // Not by its other names: `self`.
    let is_number = |path: &PathBuf| path.to_string_lossy().ends_with(|c: char| c.is_ascii_digit());
    let processes = entries(Path::new("/proc")).filter(is_number);
    let mut open = processes.flat_map(|process| entries(&process.join("fdinfo")));
    open.any(|info| {
        // Only what has the number is asked for more: a file on another machine may not answer.
        let has_number = std::fs::read_to_string(&info).is_ok_and(|text| text.lines().any(|l| l == line));
        let name = || Some(info.parent()?.with_file_name("fd").join(info.file_name()?));
        info != own && has_number && name().is_some_and(|name| is_same(&name, &meta))
    })
}

fn is_of_loop_device(file: &File) -> bool {
    let Ok(meta) = file.metadata() else { return false };
    entries(Path::new("/sys/block")).any(|device| {
        let path = std::fs::read_to_string(device.join("loop/backing_file"));
        path.is_ok_and(|path| is_same(Path::new(path.trim_end_matches('\n')), &meta))
    })
}

fn is_same(path: &Path, meta: &std::fs::Metadata) -> bool {
    std::fs::metadata(path).is_ok_and(|other| (other.dev(), other.ino()) == (meta.dev(), meta.ino()))
}
