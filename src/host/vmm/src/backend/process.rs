//! The guest in a process of its own, where there is no KVM: the same program at the same addresses, nothing
//! else mapped, one descriptor (the doorbell), three system calls. One child a worker; they share the writable
//! memory.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::stub::{self, STUB_ADDR, STUB_LEN};
use super::{Attend, Stop};
use crate::elf::Program;
use crate::layout::{PAGE, RW_BASE};
use crate::memory::Shared;

/// Exit statuses of a child that could not be set up.
pub const EXIT_MAP: i32 = 101;
/// The filter was not accepted.
pub const EXIT_FILTER: i32 = 102;
const EXIT_ORPHAN: i32 = 103;

/// A child with its doorbell.
#[derive(Debug)]
pub struct Child {
    /// Its worker's index.
    pub worker: u32,
    pid: libc::pid_t,
    doorbell: UnixStream,
    gone: bool,
}

/// Makes one child for each worker. Must be called while this process has one thread.
///
/// # Errors
/// The kernel's, from fork or the like.
pub fn spawn(program: &Program<'_>, memory: &Shared, cpu_seconds: Option<u64>) -> io::Result<Vec<Child>> {
    let parent = std::process::id();
    let mut children = Vec::new();
    for worker in 0..memory.layout().workers {
        let (ours, theirs) = UnixStream::pair()?;
        // SAFETY: this process has one thread, so the child is in no lock's way; it runs only `child`, which
        // allocates nothing.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            // SAFETY: in the child, which has nothing else to do.
            0 => unsafe { child(program, memory, worker, theirs.as_raw_fd(), parent, cpu_seconds) },
            pid => children.push(Child { worker, pid, doorbell: ours, gone: false }),
        }
    }
    Ok(children)
}

/// The child's whole life as a part of this program.
///
/// # Safety
/// Only in a fresh child.
unsafe fn child(
    program: &Program<'_>,
    memory: &Shared,
    worker: u32,
    doorbell: i32,
    parent: u32,
    cpu_seconds: Option<u64>,
) -> ! {
    // SAFETY: system calls with arguments of the right kind; from `map` on, only what the guest is to have.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() as u32 != parent {
            libc::_exit(EXIT_ORPHAN);
        }
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        forget_rseq();
        // Best effort: where it is not allowed, the filter still leaves nothing to use a namespace for.
        libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS);
        if !map(program, memory) {
            libc::_exit(EXIT_MAP);
        }
        libc::dup2(doorbell, 0);
        libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0);
        limit(libc::RLIMIT_CORE, 0);
        limit(libc::RLIMIT_FSIZE, 0);
        limit(libc::RLIMIT_NPROC, 0);
        limit(libc::RLIMIT_NOFILE, 1);
        if let Some(seconds) = cpu_seconds {
            limit(libc::RLIMIT_CPU, seconds + 1);
        }
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let layout = memory.layout();
        let end = |segment: crate::elf::Segment| segment.addr + segment.len.next_multiple_of(PAGE);
        let keep = [
            (program.text.addr, end(program.text)),
            (program.rodata.addr, end(program.rodata)),
            (program.data.addr, end(program.data)),
            (STUB_ADDR, STUB_ADDR + STUB_LEN),
            (RW_BASE, RW_BASE + layout.len),
        ];
        let (_, rsp) = layout.stack(worker);
        stub::leave(&keep, &stub::Entry { rip: program.entry, rsp, boot: layout.boot, worker: u64::from(worker) });
    }
}

unsafe fn limit(what: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: a valid pointer; lowering a limit of this process.
    unsafe { libc::setrlimit(what, &raw const limit) };
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
unsafe fn map(program: &Program<'_>, memory: &Shared) -> bool {
    let Some(file) = memory.file() else { return false };
    let layout = memory.layout();
    let shared = |at: u64, len: u64, offset: u64, rights: i32| {
        // SAFETY: fixed addresses below this program's own, which nothing of it uses.
        let got = unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
            libc::mmap(at as *mut libc::c_void, len as usize, rights, flags, file.as_raw_fd(), offset.cast_signed())
        };
        got as u64 == at
    };
    let protect = |at: u64, len: u64, rights: i32| {
        // SAFETY: ranges just mapped.
        unsafe { libc::mprotect(at as *mut libc::c_void, len.next_multiple_of(PAGE) as usize, rights) == 0 }
    };
    // The program is embedded in this executable, on page boundaries: its pages are moved to where it belongs,
    // without a copy.
    let moved = |segment: crate::elf::Segment, rights: i32| {
        let len = segment.len.next_multiple_of(PAGE) as usize;
        // SAFETY: the pages are this executable's read-only data, which this child does not need any more.
        let got = unsafe {
            let from = program.file.as_ptr().add(segment.offset as usize).cast_mut().cast::<libc::c_void>();
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            libc::mremap(from, len, len, flags, segment.addr as *mut libc::c_void)
        };
        got as u64 == segment.addr && protect(segment.addr, segment.len, rights)
    };
    let (read, write) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    let guards = (0..layout.workers).map(|w| layout.stack(w).0 - PAGE).chain([layout.stack(layout.workers).0 - PAGE]);
    let mut ok = shared(RW_BASE, layout.len, 0, write)
        && shared(program.data.addr, program.data.len.next_multiple_of(PAGE), layout.data - RW_BASE, write)
        && protect(layout.boot, PAGE + layout.params_len, read)
        && moved(program.text, libc::PROT_READ | libc::PROT_EXEC)
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
                Ok(0) => return Stop::Fault(self.epitaph()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    if !attend.ticked() {
                        return Stop::Ended;
                    }
                }
                Err(_) => return Stop::Fault(self.epitaph()),
            }
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
                Ok(0) | Err(_) => return Some(Stop::Fault(self.epitaph())),
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
    fn epitaph(&mut self) -> String {
        let Some(status) = self.bury() else { return "its process is gone".to_string() };
        if libc::WIFSIGNALED(status) {
            return match libc::WTERMSIG(status) {
                libc::SIGSYS => "it made a system call that it has no right to".to_string(),
                libc::SIGSEGV | libc::SIGBUS => {
                    "it touched memory that it may not, or tried a privileged instruction".to_string()
                }
                libc::SIGILL => "it ran an instruction that does not exist".to_string(),
                libc::SIGXCPU | libc::SIGKILL => "it was killed".to_string(),
                signal => format!("it died of signal {signal}"),
            };
        }
        format!("its process ended by itself (status {})", libc::WEXITSTATUS(status))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.gone {
            // SAFETY: our own child, not waited for yet.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            self.bury();
        }
    }
}
