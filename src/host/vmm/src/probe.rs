//! What this machine offers: for `instar doctor`.

use std::time::{Duration, Instant};

use crate::backend::kvm;

/// The findings.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// How long a virtual machine with one processor took to make, or why there is none and what to do.
    pub kvm: Result<Duration, String>,
    /// Landlock's version, 0 where the kernel has none.
    pub landlock: u32,
    /// System call filters can be installed.
    pub seccomp: bool,
    /// This user may make namespaces.
    pub namespaces: bool,
    /// The guest runs its build for x86-64-v3.
    pub fast_guest: bool,
}

/// Looks.
#[must_use]
pub fn probe() -> Capabilities {
    Capabilities {
        kvm: start_processor(),
        landlock: crate::lockdown::landlock_version(),
        seccomp: has_seccomp(),
        namespaces: may_unshare(),
        fast_guest: crate::guest::fast(),
    }
}

fn start_processor() -> Result<Duration, String> {
    let started = Instant::now();
    let kvm = kvm::open().map_err(|e| e.0)?;
    let no = |e: kvm_ioctls::Error| format!("KVM: {}", crate::backend::words(e.errno()));
    let vm = kvm.create_vm().map_err(no)?;
    vm.create_vcpu(0).map_err(no)?;
    Ok(started.elapsed())
}

fn has_seccomp() -> bool {
    const GET_ACTION_AVAIL: u32 = 2;
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: asks whether an action exists; takes a pointer to its number.
    unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

fn may_unshare() -> bool {
    // SAFETY: called before any thread exists; the child does one system call and exits.
    unsafe {
        match libc::fork() {
            -1 => false,
            0 => libc::_exit(libc::unshare(libc::CLONE_NEWUSER)),
            child => {
                let mut status = 0;
                libc::waitpid(child, &raw mut status, 0) == child && libc::WIFEXITED(status) && status == 0
            }
        }
    }
}
