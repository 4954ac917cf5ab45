//! The guest in a process of its own, where there is no KVM: the same program at the same addresses, nothing
//! else mapped, one descriptor (the doorbell), three system calls. One child a worker; they share the writable
//! memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::ranges::{self, Range};
use super::{Attend, Stop, code, stub};
use crate::elf::{Program, Segment};
use crate::layout::{PAGE, RW_BASE};
use crate::lockdown::capabilities;
use crate::memory::Shared;

/// What of a child's setting up may fail: its exit status then. Nothing of the guest has run.
#[derive(Clone, Copy)]
pub enum Step {
    /// It is nobody's child any more.
    Orphan = 101,
    /// Signals.
    Signals,
    /// The guest's memory.
    Memory,
    /// Descriptors.
    Descriptors,
    /// Resource limits.
    Limits,
    /// Capabilities and the like.
    Rights,
    /// The host's memory.
    Unmap,
    /// The system call filter.
    Filter,
    /// It runs, and may not use its doorbell.
    Doorbell = instar_abi::boot::DOORBELL_DENIED as isize,
}

/// In words.
const STEPS: &[(Step, &str)] = &[
    (Step::Orphan, "this program ended, or is not its parent as far as it may ask (getpid, getppid)"),
    (Step::Signals, "its signals cannot be masked"),
    (Step::Memory, "its memory cannot be mapped"),
    (Step::Descriptors, "descriptors of this program cannot be closed in it"),
    (Step::Limits, "its resource limits cannot be lowered"),
    (Step::Rights, "its rights cannot be dropped"),
    (Step::Unmap, "memory of this program cannot be unmapped in it"),
    (Step::Filter, "its system call filter is refused"),
    (Step::Doorbell, "its doorbell is denied to it (read, write)"),
];

/// A child with its doorbell.
#[derive(Debug)]
pub struct Child {
    /// Its worker's index.
    pub worker: u32,
    pid: libc::pid_t,
    doorbell: UnixStream,
    gone: bool,
}

/// What all children are made from.
struct Plan<'a> {
    program: &'a Program<'a>,
    memory: &'a Shared,
    text: Option<File>,
    unmap: Vec<Range>,
    cpu_seconds: Option<u64>,
    parent: u32,
    xsave: bool,
}

/// Makes one child for each worker. Must be called while this process has one thread.
///
/// # Errors
/// The kernel's, from fork or the like.
pub fn spawn(program: &Program<'_>, memory: &Shared, cpu_seconds: Option<u64>) -> io::Result<Vec<Child>> {
    let layout = memory.layout();
    let end = |segment: Segment| segment.addr + segment.len.next_multiple_of(PAGE);
    let keep = [
        (program.text.addr, end(program.text)),
        (program.rodata.addr, end(program.rodata)),
        (program.data.addr, end(program.data)),
        (stub::CODE_ADDR, stub::END_ADDR),
        (RW_BASE, RW_BASE + layout.len),
    ];
    let unmap = ranges::all_but(&keep, &ranges::of_the_kernel());
    let (text, parent, xsave) = (code::sealed(program)?, std::process::id(), crate::cpuid::has_xsave());
    let plan = Plan { program, memory, text, unmap, cpu_seconds, parent, xsave };
    let mut children = Vec::new();
    for worker in 0..layout.workers {
        let (ours, theirs) = UnixStream::pair()?;
        let to_close = if closes_ranges() { Vec::new() } else { descriptors()? };
        // SAFETY: this process has one thread, so the child is in no lock's way; it runs only `child`, which
        // allocates nothing.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            // SAFETY: in the child, which has nothing else to do.
            0 => unsafe { child(&plan, worker, theirs.as_raw_fd(), &to_close) },
            pid => children.push(Child { worker, pid, doorbell: ours, gone: false }),
        }
    }
    Ok(children)
}

/// Whether the kernel has close_range(2) (from 5.9 on), and lets it be called.
fn closes_ranges() -> bool {
    // SAFETY: no descriptor has that number: nothing is closed.
    unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) == 0 }
}

/// All descriptors of this process.
fn descriptors() -> io::Result<Vec<i32>> {
    let name = |entry: io::Result<std::fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().parse().ok());
    std::fs::read_dir("/proc/self/fd")?.filter_map(|entry| name(entry).transpose()).collect()
}

/// The child's whole life as a part of this program.
///
/// # Safety
/// Only in a fresh child.
unsafe fn child(plan: &Plan<'_>, worker: u32, doorbell: i32, to_close: &[i32]) -> ! {
    let must = |step: Step, done: bool| {
        if !done {
            // SAFETY: ends this process, which has done nothing that wants an end in order.
            unsafe { libc::_exit(step as i32) }
        }
    };
    // SAFETY: system calls with arguments of the right kind; from `map` on, only what the guest is to have.
    unsafe {
        must(Step::Orphan, libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0);
        must(Step::Orphan, libc::getppid() as u32 == plan.parent);
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        must(Step::Signals, libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) == 0);
        forget_rseq();
        // Best effort: where it is not allowed, the filter still leaves nothing to use a namespace for.
        libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS);
        // In a new namespace it has all of them.
        must(Step::Rights, capabilities::drop_all(false));
        must(Step::Memory, map(plan) && stub::prepare(&plan.unmap));
        must(Step::Descriptors, libc::dup2(doorbell, 0) == 0 && close_all_but_the_first(to_close));
        let limited = limit(libc::RLIMIT_CORE, 0)
            && limit(libc::RLIMIT_FSIZE, 0)
            && limit(libc::RLIMIT_NPROC, 0)
            && limit(libc::RLIMIT_NOFILE, 1)
            && plan.cpu_seconds.is_none_or(|seconds| limit(libc::RLIMIT_CPU, seconds + 1));
        must(Step::Limits, limited);
        must(Step::Rights, libc::prctl(libc::PR_SET_DUMPABLE, 0) == 0);
        must(Step::Rights, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        let layout = plan.memory.layout();
        let (_, rsp) = layout.stack(worker);
        let (rip, boot, worker) = (plan.program.entry, layout.boot, u64::from(worker));
        stub::leave(&stub::Entry { rip, rsp, boot, worker, xsave: plan.xsave });
    }
}

/// Closes every descriptor but 0. `listed`: all that were open before the fork, for kernels that must be told one by one.
unsafe fn close_all_but_the_first(listed: &[i32]) -> bool {
    // SAFETY: nothing of this child uses any of them from here on.
    unsafe {
        let closed = |fd: i32| libc::close(fd) == 0 || *libc::__errno_location() == libc::EBADF;
        match listed {
            [] => libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) == 0,
            _ => listed.iter().filter(|fd| **fd != 0).all(|fd| closed(*fd)),
        }
    }
}

unsafe fn limit(what: libc::__rlimit_resource_t, value: u64) -> bool {
    let mut limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: valid pointers; lowering a limit of this process.
    unsafe {
        let mut now = limit;
        if libc::getrlimit(what, &raw mut now) == 0 {
            limit.rlim_max = value.min(now.rlim_max);
            limit.rlim_cur = limit.rlim_max;
        }
        libc::setrlimit(what, &raw const limit) == 0
    }
}

/// The C library told the kernel of a per-thread area (restartable sequences) that the kernel writes to; it is
/// about to be unmapped.
unsafe fn forget_rseq() {
    const UNREGISTER: i32 = 1;
    const SIGNATURE: u32 = 0x5305_3053;
    // SAFETY: the symbols, where the C library has them (weak: it need not), are a `ptrdiff_t` and an `unsigned int`;
    // the thread pointer is the first word that fs points to.
    unsafe {
        let (offset, size): (*const isize, *const u32);
        let thread: *mut u8;
        core::arch::asm!(
            ".weak __rseq_offset", ".weak __rseq_size",
            "mov {}, qword ptr [rip + __rseq_offset@GOTPCREL]",
            "mov {}, qword ptr [rip + __rseq_size@GOTPCREL]",
            "mov {}, fs:[0]",
            out(reg) offset, out(reg) size, out(reg) thread,
            options(nostack, readonly, preserves_flags),
        );
        if offset.is_null() || size.is_null() {
            return;
        }
        let area = thread.offset(*offset);
        // The registered length is not always the advertised one.
        for len in [*size, 32, 64, 28, 20] {
            if libc::syscall(libc::SYS_rseq, area, len, UNREGISTER, SIGNATURE) == 0 {
                break;
            }
        }
    }
}

/// Puts the program and the writable region at their addresses.
unsafe fn map(plan: &Plan<'_>) -> bool {
    let Plan { program, memory, text, .. } = plan;
    let Some(file) = memory.file() else { return false };
    let layout = memory.layout();
    let (read, write, run) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    let put = |at: u64, len: u64, rights: i32, kind: i32, fd: i32, offset: u64| {
        // SAFETY: fixed addresses below this program's own, which nothing of it uses.
        let got = unsafe {
            let flags = kind | libc::MAP_FIXED | libc::MAP_NORESERVE;
            let len = len.next_multiple_of(PAGE) as usize;
            libc::mmap(at as *mut libc::c_void, len, rights, flags, fd, offset.cast_signed())
        };
        got as u64 == at
    };
    let shared = |at: u64, len: u64, offset: u64| put(at, len, write, libc::MAP_SHARED, file.as_raw_fd(), offset);
    let protect = |at: u64, len: u64, rights: i32| {
        // SAFETY: ranges just mapped.
        unsafe { libc::mprotect(at as *mut libc::c_void, len.next_multiple_of(PAGE) as usize, rights) == 0 }
    };
    // The program is embedded in this executable, on page boundaries: they are moved to where they belong, without
    // a copy.
    let moved = |segment: Segment, rights: i32| {
        let len = segment.len.next_multiple_of(PAGE) as usize;
        // SAFETY: the pages are this executable's read-only data, which this child does not need any more.
        let got = unsafe {
            let from = program.file.as_ptr().add(segment.offset as usize).cast_mut().cast::<libc::c_void>();
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            libc::mremap(from, len, len, flags, segment.addr as *mut libc::c_void)
        };
        got as u64 == segment.addr && protect(segment.addr, segment.len, rights)
    };
    let executable = |segment: Segment| match text {
        Some(text) => put(segment.addr, segment.len, run, libc::MAP_PRIVATE, text.as_raw_fd(), 0),
        None => moved(segment, run),
    };
    let guards = (0..layout.workers).map(|w| layout.stack(w).0 - PAGE).chain([layout.stack(layout.workers).0 - PAGE]);
    let mut ok = shared(RW_BASE, layout.len, 0)
        && shared(program.data.addr, program.data.len, layout.data - RW_BASE)
        && protect(layout.boot, PAGE + layout.params_len, read)
        && executable(program.text)
        && moved(program.rodata, read);
    for guard in guards {
        ok = ok && protect(guard, PAGE, libc::PROT_NONE);
    }
    ok
}

impl Child {
    /// The process's identifier.
    #[must_use]
    pub const fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// Serves until the server, the clock or the guest itself ends it.
    pub fn run(&mut self, attend: &dyn Attend) -> Stop {
        let mut byte = [0u8];
        loop {
            match (&self.doorbell).read(&mut byte) {
                Ok(1..) => {
                    if !attend.rang(self.worker) {
                        return Stop::Served;
                    }
                    if let Some(stop) = self.answer(byte, attend) {
                        return stop;
                    }
                }
                Ok(0) => return self.epitaph(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    if !attend.ticked() {
                        return Stop::Ended;
                    }
                }
                Err(error) => return self.unreachable(&error),
            }
        }
    }

    /// It cannot be reached: because it is gone, or because the calls for it are denied here, which it knows nothing of.
    fn unreachable(&mut self, error: &io::Error) -> Stop {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.epitaph(),
            _ => Stop::Unready(format!("no sandbox process: its doorbell cannot be used: {}", super::plain(error))),
        }
    }

    /// Lets the worker go on. One that rings without ever listening fills its doorbell up: then this waits, and
    /// the clock still ends it.
    fn answer(&mut self, byte: [u8; 1], attend: &dyn Attend) -> Option<Stop> {
        loop {
            match (&self.doorbell).write(&byte) {
                Ok(1..) => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    if !attend.ticked() {
                        return Some(Stop::Ended);
                    }
                }
                Ok(0) => return Some(self.epitaph()),
                Err(error) => return Some(self.unreachable(&error)),
            }
        }
    }

    /// Waits until the child is no more. The watchdog's reminders interrupt that, and must not leave a zombie behind.
    fn bury(&mut self) -> Option<i32> {
        let mut status = 0;
        self.gone = true;
        loop {
            // SAFETY: our own child, not waited for yet.
            if unsafe { libc::waitpid(self.pid, &raw mut status, 0) } == self.pid {
                return Some(status);
            }
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return None;
            }
        }
    }

    /// Why the child is gone.
    fn epitaph(&mut self) -> Stop {
        let Some(status) = self.bury() else { return Stop::Fault("its process is gone".to_string()) };
        if libc::WIFSIGNALED(status) {
            return Stop::Fault(match libc::WTERMSIG(status) {
                libc::SIGSYS => "it made a system call that it has no right to".to_string(),
                libc::SIGSEGV | libc::SIGBUS => {
                    "it touched memory that it may not, or tried a privileged instruction".to_string()
                }
                libc::SIGILL => "it ran an instruction that does not exist".to_string(),
                libc::SIGXCPU | libc::SIGKILL => "it was killed".to_string(),
                signal => format!("it died of signal {signal}"),
            });
        }
        let status = libc::WEXITSTATUS(status);
        // A guest may well say the same: then what is told is not so, and nothing else comes of it.
        match STEPS.iter().find(|(step, _)| *step as i32 == status) {
            Some((_, words)) => Stop::Unready(format!("no sandbox process: {words}")),
            None => Stop::Fault(format!("its process ended by itself (status {status})")),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.gone {
            // SAFETY: our own child, not waited for yet.
            let ended = unsafe { libc::kill(self.pid, libc::SIGKILL) } == 0;
            // Where that is denied, it ends with this process.
            if ended {
                self.bury();
            }
        }
    }
}
