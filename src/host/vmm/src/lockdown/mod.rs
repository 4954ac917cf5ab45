//! Locking the host half down, before the first guest instruction: whatever a guest could make it do, it can do
//! almost nothing.
//!
//! Capabilities go, `no_new_privs` and Landlock come, and a system call filter with them (`syscalls` is its table).
//! Until the chain stands the filter lets `openat2` through, which Landlock and the open policy bound; [`seal`]
//! takes that away too.

mod capabilities;
mod syscalls;

use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};

/// Locks this thread, and all that it makes from here on, down. `directories` may be opened below; none means that
/// nothing will be opened.
///
/// # Errors
/// In words. What the kernel is too old for is left out without an error; what it has must work.
pub fn apply<'a>(directories: impl Iterator<Item = &'a OwnedFd>) -> Result<(), String> {
    let directories: Vec<&OwnedFd> = directories.collect();
    capabilities::drop_all(!directories.is_empty());
    // SAFETY: sets one bit of this thread, which its children inherit.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(format!("no_new_privs: {}", std::io::Error::last_os_error()));
    }
    restrict_paths(&directories).map_err(|e| format!("Landlock: {e}"))?;
    syscalls::install(!directories.is_empty()).map_err(|e| format!("system call filter: {e}"))
}

fn restrict_paths(directories: &[&OwnedFd]) -> Result<(), landlock::RulesetError> {
    const NEWEST: ABI = ABI::V6;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    for directory in directories {
        ruleset = ruleset.add_rule(PathBeneath::new(directory, AccessFs::ReadFile))?;
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
    capabilities::drop_all(false);
}
