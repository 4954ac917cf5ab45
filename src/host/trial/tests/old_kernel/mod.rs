//! A kernel that is older than it is.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// The program finds no Landlock: its system calls are not known.
pub fn without_landlock(command: &mut Command) {
    let calls = [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
    let calls: BTreeMap<_, _> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let unknown = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, unknown, TargetArch::x86_64).expect("a filter");
    let filter: BpfProgram = filter.try_into().expect("it is short");
    // SAFETY: in the child two system calls and nothing else: the filter is ready.
    unsafe { command.pre_exec(move || seccompiler::apply_filter(&filter).map_err(std::io::Error::other)) };
}
