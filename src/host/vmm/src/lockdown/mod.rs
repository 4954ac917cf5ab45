//! Locking the host half down, before the first guest instruction: whatever a guest could make it do, it can do
//! almost nothing.
//!
//! Capabilities go, `no_new_privs` and Landlock come, and a system call filter with them (`syscalls` is its table).
//! Until the chain stands the filter lets `openat2` through, which Landlock and the open policy bound, and `recvmsg`, by
//! which files come that the publisher makes; [`seal`] takes both away.

pub mod capabilities;
mod syscalls;
mod tree;

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};

const NEWEST: ABI = ABI::V6;

/// Nobody but root looks into this process, or into those that it makes: no core is written, no debugger of the same user's
/// is let in.
pub fn hide() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid pointer; both take rights of this process away. Where they are denied, nothing else is lost.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
}

/// What holds for this process and for the sandbox processes that it makes from here on: no new rights, and no signal to
/// any other. Without such processes [`apply`] is enough.
///
/// # Errors
/// In words.
pub fn begin() -> Result<(), String> {
    no_new_privileges()?;
    let scope = || ruleset().scope(scopes())?.create()?.restrict_self().map(|_| ());
    scope().map_err(|e: RulesetError| format!("Landlock: {e}"))
}

/// Locks this thread, and all that it makes from here on, down. `directories` may be opened below, and written to where
/// that is said; none means that nothing will be opened. `receives`: files that another process makes will come over a socket.
/// `children`: the sandbox processes, which may be ended.
///
/// # Errors
/// In words. What the kernel is too old for is left out without an error; what it has must work.
pub fn apply<'a>(
    directories: impl Iterator<Item = (&'a OwnedFd, bool)>,
    receives: bool,
    children: &[libc::pid_t],
) -> Result<(), String> {
    let directories: Vec<(&OwnedFd, bool)> = directories.collect();
    if !capabilities::drop_all(!directories.is_empty()) {
        return Err(NO_DROP.to_string());
    }
    no_new_privileges()?;
    let below = directories.iter().map(|(directory, writable)| {
        let read = AccessFs::ReadFile;
        let access = if *writable { read | AccessFs::WriteFile | AccessFs::Truncate } else { read.into() };
        (*directory, access)
    });
    // Processes that were made before would be out of reach.
    let others = if children.is_empty() { scopes() } else { BitFlags::EMPTY };
    restrict(below, others)?;
    syscalls::install(!directories.is_empty(), receives, children)
}

/// Locks the process down that publishes: it makes files in `folders` and gives them their names, and no more.
///
/// # Errors
/// As with [`apply`].
pub fn publisher(folders: &[OwnedFd]) -> Result<(), String> {
    if !capabilities::keep(capabilities::PUBLISHING) {
        return Err(NO_DROP.to_string());
    }
    no_new_privileges()?;
    let access = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Refer;
    restrict(folders.iter().map(|folder| (folder, access)), scopes())?;
    syscalls::install_for_publisher()
}

const NO_DROP: &str = "capabilities cannot be dropped";

fn no_new_privileges() -> Result<(), String> {
    // SAFETY: sets one bit of this thread, which its children inherit.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(format!("no_new_privs: {}", std::io::Error::last_os_error())),
    }
}

fn ruleset() -> Ruleset {
    Ruleset::default().set_compatibility(CompatLevel::BestEffort)
}

/// Processes outside that cannot be reached.
fn scopes() -> BitFlags<Scope> {
    Scope::AbstractUnixSocket | Scope::Signal
}

fn restrict<'a>(
    below: impl Iterator<Item = (&'a OwnedFd, BitFlags<AccessFs>)>,
    scopes: BitFlags<Scope>,
) -> Result<(), String> {
    let restrict = || {
        let mut ruleset =
            ruleset().handle_access(AccessFs::from_all(NEWEST))?.handle_access(AccessNet::from_all(NEWEST))?;
        if !scopes.is_empty() {
            ruleset = ruleset.scope(scopes)?;
        }
        let mut ruleset = ruleset.create()?;
        for (directory, access) in below {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?;
        }
        ruleset.restrict_self().map(|_| ())
    };
    restrict().map_err(|e: RulesetError| format!("Landlock: {e}"))
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

/// Gives up the right to open, for all threads. Called by the first worker's thread, which alone has kept capabilities.
pub fn seal() {
    syscalls::forbid_opening();
    drop_rest();
}

/// What a thread does that will open nothing: capabilities are each thread's own.
pub fn drop_rest() {
    // If they cannot be dropped: what they are good for, no call is left for.
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
            apply(std::iter::empty(), false, &[]).expect("it can be locked down");
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
    fn only_this_process_and_its_children_get_signals() {
        // SAFETY: signal 0 is none: it asks whether one could be sent.
        let kill = |pid: libc::pid_t| match unsafe { libc::kill(pid, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        };
        let mut children =
            [(); 2].map(|()| std::process::Command::new("/bin/sleep").arg("60").spawn().expect("a child process"));
        let [child, other] = [0, 1].map(|i| children[i].id().cast_signed());
        in_a_thread(move || {
            assert!(kill(child).is_ok() && kill(other).is_ok());
            apply(std::iter::empty(), false, &[child]).expect("it can be locked down");
            assert!(kill(child).is_ok());
            assert!(refused(kill(other)) && refused(kill(-1)) && refused(kill(0)));
            // SAFETY: as above.
            let tgkill = |pid: libc::pid_t| unsafe { libc::syscall(libc::SYS_tgkill, pid, libc::gettid(), 0) };
            assert_eq!((tgkill(std::process::id().cast_signed()), tgkill(other)), (0, -1));
        });
        in_a_thread(move || {
            apply(std::iter::empty(), false, &[]).expect("it can be locked down");
            assert!(refused(kill(child)) && refused(kill(std::process::id().cast_signed())));
        });
        for child in &mut children {
            child.kill().and_then(|()| child.wait()).expect("our own child");
        }
    }

    #[test]
    fn who_publishes_makes_files_in_its_folder_only() {
        let root = std::env::temp_dir().join(format!("instar-lockdown-publisher-{}", std::process::id()));
        let [inside, outside] = ["inside", "outside"].map(|name| root.join(name));
        for folder in [&inside, &outside] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        let folder: OwnedFd = File::open(&inside).expect("it is there").into();
        in_a_thread(move || {
            publisher(&[folder]).expect("it can be locked down");
            std::fs::write(inside.join("new"), b"new").expect("its own folder");
            std::fs::rename(inside.join("new"), inside.join("name")).expect("its own folder");
            std::fs::remove_file(inside.join("name")).expect("its own file");
            if landlock_version() > 0 {
                assert!(refused(std::fs::write(outside.join("new"), b"new")));
                assert!(refused(File::open("/etc/passwd")));
            }
            assert!(refused(std::net::TcpListener::bind("127.0.0.1:0")));
            assert!(refused(std::process::Command::new("/bin/true").status()));
            assert!(refused(std::fs::create_dir(inside.join("folder"))));
        });
        std::fs::remove_dir_all(root).expect("made here");
    }

    #[test]
    fn while_a_chain_is_resolved_its_folders_can_be_read_and_not_written() {
        in_a_thread(|| {
            let root = std::env::temp_dir().join(format!("instar-lockdown-chain-{}", std::process::id()));
            std::fs::create_dir_all(&root).expect("a folder");
            std::fs::write(root.join("base"), b"base").expect("room on the disk");
            let folder: OwnedFd = File::open(&root).expect("it is there").into();
            let etc: OwnedFd = File::open("/etc").expect("it is there").into();
            apply(std::iter::once((&folder, false)), false, &[]).expect("it can be locked down");
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
