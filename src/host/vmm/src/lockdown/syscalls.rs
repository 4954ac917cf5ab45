//! The system call filter: the table of what the host half may still do, and why.
//!
//! What is not in the table fails with EPERM rather than killing: the C library's own needs differ from version to
//! version, and a call that fails gives an attacker no more than one that kills.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::tree::{self, Verdict};

/// What a call's argument must be for the call to pass.
enum When {
    Always,
    /// Argument `.0`, masked with `.1`, equals `.2`.
    Masked(u8, u64, u64),
    /// Argument `.0` is one of `.1`.
    OneOf(u8, &'static [u64]),
    /// Argument 0 is this process.
    Itself,
    /// Argument 0 is one of its sandbox processes.
    Child,
}

const KVM_RUN: u64 = 0xae80;
const FICLONERANGE: u64 = 0x4020_940d;
const FS_IOC_FSGETXATTR: u64 = 0x801c_581f;
const IOCTL: &[u64] = &[KVM_RUN, FICLONERANGE, FS_IOC_FSGETXATTR];
const FCNTL: &[u64] = &[libc::F_GETFL as u64, libc::F_GETFD as u64, libc::F_OFD_GETLK as u64, libc::F_OFD_SETLK as u64];
const PRCTL: &[u64] = &[libc::PR_SET_NAME as u64, libc::PR_SET_NO_NEW_PRIVS as u64, libc::PR_CAP_AMBIENT as u64];
/// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`, `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR`, `BLKROGET`.
const FLAGS: &[u64] = &[0x8008_6601, 0x4008_6602, 0x801c_581f, 0x401c_5820, 0x125e];
const EXECUTE: u64 = libc::PROT_EXEC as u64;
const THREAD: u64 = libc::CLONE_THREAD as u64;

/// Call, condition, reason.
const TABLE: &[(i64, When, &str)] = &[
    (libc::SYS_read, When::Always, "inputs; the doorbell of a child"),
    (libc::SYS_write, When::Always, "standard output; the doorbell of a child; the committer's pipe"),
    (libc::SYS_writev, When::Always, "standard output"),
    (libc::SYS_pread64, When::Always, "the server reads"),
    (libc::SYS_fadvise64, When::Always, "the server reads around what is broken"),
    (libc::SYS_pwrite64, When::Always, "the server writes"),
    (libc::SYS_lseek, When::Always, "data and holes; a block device's length"),
    (libc::SYS_copy_file_range, When::Always, "the server copies"),
    (libc::SYS_fallocate, When::Always, "preallocation, zeroes, holes"),
    (libc::SYS_ftruncate, When::Always, "the target's length"),
    (libc::SYS_fsync, When::Always, "barriers"),
    (libc::SYS_fdatasync, When::Always, "barriers"),
    (libc::SYS_fstat, When::Always, "allocated size"),
    (libc::SYS_newfstatat, When::Always, "the same, as some C libraries ask it"),
    (libc::SYS_statx, When::Always, "the same, as the Rust library asks it"),
    (libc::SYS_fstatfs, When::Always, "no /proc and /sys in a chain"),
    (libc::SYS_fcntl, When::OneOf(1, FCNTL), "locks of QEMU's kind"),
    (libc::SYS_ioctl, When::OneOf(1, IOCTL), "the processor runs; reflinks; the hint of a file on XFS"),
    (libc::SYS_close, When::Always, "files are closed at the end"),
    (libc::SYS_mmap, When::Masked(2, EXECUTE, 0), "the allocator, stacks of threads; never executable"),
    (libc::SYS_mprotect, When::Masked(2, EXECUTE, 0), "the same"),
    (libc::SYS_munmap, When::Always, "the allocator"),
    (libc::SYS_mremap, When::Always, "the allocator"),
    (libc::SYS_madvise, When::Always, "the allocator"),
    (libc::SYS_brk, When::Always, "the allocator"),
    (libc::SYS_futex, When::Always, "locks between threads"),
    (libc::SYS_clone, When::Masked(0, THREAD, THREAD), "threads for what is slow, never processes"),
    (libc::SYS_set_robust_list, When::Always, "a thread begins"),
    (libc::SYS_rseq, When::Always, "a thread begins"),
    (libc::SYS_sigaltstack, When::Always, "a thread begins and ends"),
    (libc::SYS_rt_sigprocmask, When::Always, "a thread begins and ends"),
    (libc::SYS_rt_sigreturn, When::Always, "a handler returns"),
    (libc::SYS_rt_sigaction, When::Always, "signals are given back at the end"),
    (libc::SYS_gettid, When::Always, "the watchdog knows the threads"),
    (libc::SYS_getpid, When::Always, "the watchdog wakes the threads"),
    (libc::SYS_tgkill, When::Itself, "the watchdog wakes the threads"),
    (libc::SYS_kill, When::Child, "a child is ended"),
    (libc::SYS_wait4, When::Always, "a child is buried"),
    (libc::SYS_prctl, When::OneOf(0, PRCTL), "threads have names; the second filter; capabilities"),
    (libc::SYS_seccomp, When::Always, "the second filter"),
    (libc::SYS_capget, When::Always, "the last capabilities are dropped"),
    (libc::SYS_capset, When::Always, "the last capabilities are dropped"),
    (libc::SYS_shutdown, When::Always, "the committer is told that nothing will come"),
    (libc::SYS_recvfrom, When::Always, "the doorbell of a child"),
    (libc::SYS_sendto, When::Always, "the doorbell of a child; the committer's pipe"),
    (libc::SYS_clock_gettime, When::Always, "limits"),
    (libc::SYS_getrusage, When::Always, "the report: time and memory"),
    (libc::SYS_clock_getres, When::Always, "limits: how the C library finds a process's clock"),
    (libc::SYS_clock_nanosleep, When::Always, "rate limits"),
    (libc::SYS_nanosleep, When::Always, "rate limits"),
    (libc::SYS_sched_yield, When::Always, "locks between threads"),
    (libc::SYS_sched_getaffinity, When::Always, "a thread begins"),
    (libc::SYS_getrandom, When::Always, "hash tables"),
    (libc::SYS_restart_syscall, When::Always, "the kernel's own, after a stop"),
    (libc::SYS_exit, When::Always, "a thread ends"),
    (libc::SYS_exit_group, When::Always, "the end"),
];

/// Besides, until the chain stands: the open policy opens, and reads the links on the way.
const OPENING: [i64; 2] = [libc::SYS_openat2, libc::SYS_readlinkat];

/// The same for the process that publishes.
const PUBLISHER: &[(i64, When, &str)] = &[
    (libc::SYS_read, When::Always, "questions"),
    (libc::SYS_recvfrom, When::Always, "the same"),
    (libc::SYS_sendmsg, When::Always, "answers, with files"),
    (libc::SYS_sendto, When::Always, "answers"),
    (libc::SYS_write, When::Always, "answers"),
    (libc::SYS_open, When::Always, "a file, a folder"),
    (libc::SYS_openat, When::Always, "the same"),
    (libc::SYS_close, When::Always, "what is not needed any more"),
    (libc::SYS_stat, When::Always, "what is to be replaced"),
    (libc::SYS_lstat, When::Always, "the same"),
    (libc::SYS_fstat, When::Always, "the same"),
    (libc::SYS_newfstatat, When::Always, "the same"),
    (libc::SYS_statx, When::Always, "the same"),
    (libc::SYS_statfs, When::Always, "the same"),
    (libc::SYS_fstatfs, When::Always, "the same"),
    (libc::SYS_readlink, When::Always, "where a link leads"),
    (libc::SYS_readlinkat, When::Always, "the same"),
    (libc::SYS_getcwd, When::Always, "the same"),
    (libc::SYS_access, When::Always, "the same, over folders that end in `..`"),
    (libc::SYS_faccessat, When::Always, "the same"),
    (libc::SYS_faccessat2, When::Always, "the same"),
    (libc::SYS_fcntl, When::Always, "locks; descriptors"),
    (libc::SYS_ioctl, When::OneOf(1, FLAGS), "flags of files"),
    (libc::SYS_ftruncate, When::Always, "a target is emptied"),
    (libc::SYS_fsync, When::Always, "a file is complete"),
    (libc::SYS_fdatasync, When::Always, "the same"),
    (libc::SYS_fchown, When::Always, "what replaces a file is as that was"),
    (libc::SYS_fchmod, When::Always, "the same"),
    (libc::SYS_utimensat, When::Always, "the same"),
    (libc::SYS_flistxattr, When::Always, "the same"),
    (libc::SYS_fgetxattr, When::Always, "the same"),
    (libc::SYS_fsetxattr, When::Always, "the same"),
    (libc::SYS_fremovexattr, When::Always, "the same"),
    (libc::SYS_linkat, When::Always, "a file gets its name"),
    (libc::SYS_rename, When::Always, "the same"),
    (libc::SYS_renameat, When::Always, "the same"),
    (libc::SYS_renameat2, When::Always, "the same"),
    (libc::SYS_unlink, When::Always, "what is not published goes"),
    (libc::SYS_unlinkat, When::Always, "the same"),
    (libc::SYS_geteuid, When::Always, "whose files these are"),
    (libc::SYS_getegid, When::Always, "the same"),
    (libc::SYS_umask, When::Always, "the rights of a new file"),
    (libc::SYS_getpid, When::Always, "hidden names"),
    (libc::SYS_getrandom, When::Always, "hidden names"),
    (libc::SYS_clock_gettime, When::Always, "times of files"),
    (libc::SYS_lseek, When::Always, "lengths; what is copied into a file that cannot be replaced"),
    (libc::SYS_pread64, When::Always, "the same"),
    (libc::SYS_pwrite64, When::Always, "the same"),
    (libc::SYS_fallocate, When::Always, "the same"),
    (libc::SYS_mmap, When::Masked(2, EXECUTE, 0), "the allocator; never executable"),
    (libc::SYS_mprotect, When::Masked(2, EXECUTE, 0), "the same"),
    (libc::SYS_munmap, When::Always, "the allocator"),
    (libc::SYS_mremap, When::Always, "the allocator"),
    (libc::SYS_madvise, When::Always, "the allocator"),
    (libc::SYS_brk, When::Always, "the allocator"),
    (libc::SYS_futex, When::Always, "locks of the C library"),
    (libc::SYS_rt_sigaction, When::Always, "signals are ignored"),
    (libc::SYS_rt_sigprocmask, When::Always, "the C library's end"),
    (libc::SYS_rt_sigreturn, When::Always, "a handler returns"),
    (libc::SYS_restart_syscall, When::Always, "the kernel's own, after a stop"),
    (libc::SYS_exit, When::Always, "the end"),
    (libc::SYS_exit_group, When::Always, "the end"),
];

/// Conditions; none at all: the call is never let through.
fn rules(when: &When, children: &[libc::pid_t]) -> Result<Option<Vec<SeccompRule>>, seccompiler::BackendError> {
    let rule = |argument, len, operator, value| {
        let condition = SeccompCondition::new(argument, len, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    // The kernel looks at the low half of a process's number.
    let process = |pid: u32| rule(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(pid));
    let whole = SeccompCmpArgLen::Qword;
    let rules: Result<Vec<SeccompRule>, _> = match *when {
        When::Always => return Ok(Some(Vec::new())),
        When::Masked(argument, mask, value) => {
            rule(argument, whole, SeccompCmpOp::MaskedEq(mask), value).map(|rule| vec![rule])
        }
        When::OneOf(argument, values) => {
            values.iter().map(|v| rule(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, *v)).collect()
        }
        When::Itself => process(std::process::id()).map(|rule| vec![rule]),
        When::Child => children.iter().map(|pid| process(pid.cast_unsigned())).collect(),
    };
    rules.map(|rules| if rules.is_empty() { None } else { Some(rules) })
}

fn program(
    allowed: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(allowed, mismatch, matched, TargetArch::x86_64)?.try_into()
}

fn denied() -> SeccompAction {
    SeccompAction::Errno(libc::EPERM.cast_unsigned())
}

type Table = BTreeMap<i64, Vec<SeccompRule>>;

fn calls(table: &[(i64, When, &str)], children: &[libc::pid_t]) -> Result<Table, seccompiler::BackendError> {
    let mut calls = Table::new();
    for (call, when, _reason) in table {
        if let Some(rules) = rules(when, children)? {
            calls.insert(*call, rules);
        }
    }
    Ok(calls)
}

fn in_words(error: impl std::fmt::Display) -> String {
    format!("system call filter: {error}")
}

/// Installs the filter for this thread and all that it makes.
pub fn install(opening: bool, receives: bool, children: &[libc::pid_t]) -> Result<(), String> {
    let mut table = calls(TABLE, children).map_err(in_words)?;
    if opening {
        table.extend(OPENING.map(|call| (call, Vec::new())));
    }
    if receives {
        table.insert(libc::SYS_recvmsg, Vec::new());
    }
    // The C library falls back from clone3, whose flags no filter can see, to clone where it does not exist.
    seccompiler::apply_filter(&whole(table, &[(libc::SYS_clone3, Verdict::Fails(libc::ENOSYS))])?).map_err(in_words)
}

/// The filter of a table: by their number, but for the calls that have conditions. `besides`: what fails in its own way.
fn whole(table: Table, besides: &[(i64, Verdict)]) -> Result<BpfProgram, String> {
    let (always, asked): (Table, Table) = table.into_iter().partition(|(_, rules)| rules.is_empty());
    let allowed = always.into_keys().map(|call| (call, Verdict::Allowed));
    let verdicts = allowed.chain(asked.keys().map(|call| (*call, Verdict::Asked))).chain(besides.iter().copied());
    let before = tree::before(&verdicts.collect(), Verdict::Fails(libc::EPERM));
    let mut filter = before.ok_or_else(|| in_words("too long"))?;
    filter.extend(program(asked, denied(), SeccompAction::Allow).map_err(in_words)?);
    Ok(filter)
}

/// The filter of the process that publishes.
pub fn install_for_publisher() -> Result<(), String> {
    let filter = whole(calls(PUBLISHER, &[]).map_err(in_words)?, &[])?;
    seccompiler::apply_filter(&filter).map_err(in_words)
}

/// A second filter, for all threads: no opening any more, and no file comes from elsewhere.
pub fn forbid_opening() {
    let calls = OPENING.into_iter().chain([libc::SYS_recvmsg]).map(|call| (call, Vec::new())).collect();
    let filter = program(calls, SeccompAction::Allow, denied());
    // If it cannot be installed, the open policy still refuses: the server is sealed.
    let _ = filter.map(|filter| seccompiler::apply_filter_all_threads(&filter));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_table_opens_connects_or_starts_a_program() {
        let forbidden = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_readlinkat,
            libc::SYS_recvmsg,
            libc::SYS_creat,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_unlink,
            libc::SYS_renameat2,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
        ];
        for (call, _, reason) in TABLE {
            assert!(!forbidden.contains(call), "{call}: {reason}");
        }
        let makes_files =
            [libc::SYS_open, libc::SYS_openat, libc::SYS_readlinkat, libc::SYS_unlink, libc::SYS_renameat2];
        for (call, _, reason) in PUBLISHER {
            assert!(!forbidden.contains(call) || makes_files.contains(call), "{call}: {reason}");
        }
    }

    #[test]
    fn every_call_is_there_once() {
        for table in [TABLE, PUBLISHER] {
            let mut calls: Vec<i64> = table.iter().map(|(call, ..)| *call).collect();
            calls.sort_unstable();
            calls.dedup();
            assert_eq!(calls.len(), table.len());
        }
    }
}
