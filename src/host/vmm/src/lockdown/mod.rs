//! Locking the host half down, before the first guest instruction: whatever a guest could make it do, it can do
//! almost nothing.
//!
//! Capabilities go, `no_new_privs` and Landlock come, and a system call filter with them (`syscalls` is its table).
//! Until the chain stands the filter lets `openat2` through, which Landlock and the open policy bound, and `recvmsg`, by
//! which files come that the publisher makes; [`seal`] takes both away.

pub mod capabilities;
mod syscalls;

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};

/// Locks this thread, and all that it makes from here on, down. `directories` may be opened below, and written to where
/// that is said; none means that nothing will be opened. `receives`: files that another process makes will come over a socket.
///
/// # Errors
/// In words. What the kernel is too old for is left out without an error; what it has must work.
pub fn apply<'a>(directories: impl Iterator<Item = (&'a OwnedFd, bool)>, receives: bool) -> Result<(), String> {
    let directories: Vec<(&OwnedFd, bool)> = directories.collect();
    if !capabilities::drop_all(!directories.is_empty()) {
        return Err("capabilities cannot be dropped".to_string());
    }
    // SAFETY: sets one bit of this thread, which its children inherit.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(format!("no_new_privs: {}", std::io::Error::last_os_error()));
    }
    restrict_paths(&directories).map_err(|e| format!("Landlock: {e}"))?;
    syscalls::install(!directories.is_empty(), receives).map_err(|e| format!("system call filter: {e}"))
}

fn restrict_paths(directories: &[(&OwnedFd, bool)]) -> Result<(), landlock::RulesetError> {
    const NEWEST: ABI = ABI::V6;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    for (directory, writable) in directories {
        let read = AccessFs::ReadFile;
        let access = if *writable { read | AccessFs::WriteFile | AccessFs::Truncate } else { read.into() };
        ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?;
    }
    ruleset.restrict_self().map(|_| ())
}

/// The newest Landlock version that both the kernel and this program know: 0 where there is none.
#[must_use]
pub fn landlock_version() -> u32 {
    const VERSION_FLAG: u32 = 1;
    // SAFETY: with this flag the call takes no structure and returns a number.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, VERSION_FLAG)
    };
    u32::try_from(version).unwrap_or(0)
}

/// Gives up the right to open, for all threads.
pub fn seal() {
    syscalls::forbid_opening();
    let _ = capabilities::drop_all(false);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use rustix::fs::{Mode, OFlags, ResolveFlags};

    use super::*;

    /// What is locked down is a thread: the test's own can be thrown away.
    fn in_a_thread(body: impl FnOnce() + Send + 'static) {
        std::thread::spawn(body).join().expect("the thread's own assertions");
    }

    fn refused<T>(result: std::io::Result<T>) -> bool {
        result.is_err_and(|e| matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS)))
    }

    fn beneath(folder: &OwnedFd, name: &str, flags: OFlags) -> std::io::Result<OwnedFd> {
        Ok(rustix::fs::openat2(folder, name, flags, Mode::empty(), ResolveFlags::empty())?)
    }

    #[test]
    fn what_is_open_can_be_used_and_nothing_else_be_opened() {
        in_a_thread(|| {
            let path = std::env::temp_dir().join(format!("instar-lockdown-{}", std::process::id()));
            let mut file = File::create(&path).expect("a file");
            let reader = File::open(&path).expect("it is there");
            std::fs::remove_file(&path).expect("made here");
            apply(std::iter::empty(), false).expect("it can be locked down");
            file.write_all(b"still").expect("room on the disk");
            let mut bytes = [0; 5];
            reader.read_exact_at(&mut bytes, 0).expect("it can be read");
            assert_eq!(&bytes, b"still");
            assert!(refused(File::open("/etc/passwd")));
            assert!(refused(std::net::TcpListener::bind("127.0.0.1:0")));
            assert!(refused(std::process::Command::new("/bin/true").status()));
            assert!(refused(std::fs::remove_file("/tmp/no-such-file")));
            std::thread::spawn(|| drop(vec![0u8; 4 << 20])).join().expect("threads and memory can still be had");
        });
    }

    #[test]
    fn while_a_chain_is_resolved_its_folders_can_be_read_and_not_written() {
        in_a_thread(|| {
            let root = std::env::temp_dir().join(format!("instar-lockdown-chain-{}", std::process::id()));
            std::fs::create_dir_all(&root).expect("a folder");
            std::fs::write(root.join("base"), b"base").expect("room on the disk");
            let folder: OwnedFd = File::open(&root).expect("it is there").into();
            let etc: OwnedFd = File::open("/etc").expect("it is there").into();
            apply(std::iter::once((&folder, false)), false).expect("it can be locked down");
            assert!(beneath(&folder, "base", OFlags::RDONLY).is_ok());
            assert!(refused(File::open("/etc/passwd")));
            if landlock_version() > 0 {
                assert!(refused(beneath(&folder, "base", OFlags::RDWR)));
                assert!(refused(beneath(&etc, "passwd", OFlags::RDONLY)));
            }
        });
        let root = std::env::temp_dir().join(format!("instar-lockdown-chain-{}", std::process::id()));
        std::fs::remove_dir_all(root).expect("made here");
    }
}
