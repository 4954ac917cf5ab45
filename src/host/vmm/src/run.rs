//! One run from end to end: build the sandbox, lock down, let the workers run, watch the limits, take it apart.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use instar_abi::ABI_VERSION;
use instar_abi::boot::{BOOT_MAGIC, BootInfo, DOORBELL_PORT_IO, DOORBELL_SYSCALL, MAX_WORKERS};
use zerocopy::IntoBytes;
use zeroize::Zeroize;

use crate::backend::kvm::Machine;
use crate::backend::process::Child;
use crate::backend::{Attend, Stop, kvm, plain, process, words};
use crate::elf::Program;
use crate::job::ASKED;
use crate::layout::{Layout, PAGE};
use crate::memory::{Backing, Shared};
use crate::server::{Depth, Served, Server};
use crate::{Failure, Isolation, Job, LastWords, Limits, Outcome};

/// How often the limits are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often a thread that has to stop is reminded.
const REMIND: Duration = Duration::from_millis(5);

/// How long a thread that has to stop is waited for, before its program ends without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the guest will run, built but not started.
enum Sandbox {
    Kvm(Machine),
    Process(Vec<Child>),
}

impl Sandbox {
    fn children(&self) -> Vec<libc::pid_t> {
        match self {
            Self::Kvm(_) => Vec::new(),
            Self::Process(children) => children.iter().map(Child::pid).collect(),
        }
    }
}

/// Runs the guest.
///
/// # Errors
/// See [`Failure`].
pub fn run(mut job: Job<'_>) -> Result<Outcome, Failure> {
    crate::limits::allow_many_files();
    let host = |what: &str| Failure::Host(what.to_string());
    // The threads of a short command allocate next to nothing: a heap for each would take longer to make than it takes.
    // SAFETY: two numbers; what is refused changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    prepare_signals(job.observer.can_be_asked());
    let file = job.guest.unwrap_or_else(|| crate::guest::program());
    let program = Program::parse(file).ok_or_else(|| host("the guest program is damaged"))?;
    let workers = job.workers.clamp(1, MAX_WORKERS);
    let data_len = program.data.len.next_multiple_of(PAGE);
    let (params_len, often_len) = (job.params.len() as u64, program.often_len);
    let layout = Layout::new(workers, params_len, data_len, often_len, job.limits.guest_memory_bytes)
        .ok_or_else(|| limit("guest memory", "--max-guest-memory", job.limits.guest_memory_bytes, "bytes"))?;

    let lock_down = job.lock_down || cfg!(not(debug_assertions));
    let mut fallback = None;
    let machine = match job.isolation {
        Isolation::Process => None,
        wanted => match build_kvm(&program, &layout, &job) {
            Ok(built) => Some(built),
            Err(why) if wanted == Isolation::Kvm => return Err(Failure::NoKvm(why)),
            Err(why) => {
                fallback = Some(why);
                None
            }
        },
    };
    let (sandbox, memory) = match machine {
        Some((machine, memory)) => (Sandbox::Kvm(machine), memory),
        None => {
            if lock_down {
                crate::lockdown::begin().map_err(Failure::Host)?;
            }
            build_process(&program, &layout, &job).map_err(|e| Failure::Host(no_process(&e)))?
        }
    };
    // The guest has them; there may be secrets among them.
    job.params.zeroize();
    let isolation = if matches!(sandbox, Sandbox::Kvm(_)) { Isolation::Kvm } else { Isolation::Process };
    crate::tally::runs(isolation);
    // Afterwards the filter forbids to ask.
    let landlock = crate::lockdown::landlock_version() > 0;
    let server = Server::new(job.devices, job.policy, job.limits.clone(), job.observer, workers);
    let children = sandbox.children();
    if lock_down {
        crate::lockdown::apply(server.directories(), server.makes_files(), &children).map_err(Failure::Host)?;
    }
    let session = Session::new(&server, &memory, &job.limits, job.last_words.as_ref());
    let end = session.run(sandbox, &children);
    let message_bytes = server.message_bytes();
    let asked = server.take_asked();
    let growth_refused = server.growth_refused();
    let finished = server.finish();
    let (devices, results) = server.into_parts();
    match end {
        End::Served(Served::Finished(0)) if finished.is_err() => Err(host("a file could not be cut to its length")),
        End::Served(Served::Finished(status)) => Ok(Outcome {
            status,
            results,
            message_bytes,
            isolation,
            fallback,
            landlock,
            growth_refused,
            devices,
            asked,
        }),
        End::Served(Served::Panicked(text)) => Err(Failure::Guest(text)),
        End::Served(Served::Broke(text)) => Err(Failure::Guest(format!("it broke the protocol: {text}"))),
        End::Served(Served::Limit { name, flag, value }) => Err(Failure::Limit { name, flag, value }),
        End::Fault(text) => Err(Failure::Guest(text)),
        End::Unready(text) => Err(Failure::Host(text)),
        End::Served(Served::Continue | Served::Aborted) => Err(host("the guest ended without a word")),
    }
}

fn no_process(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EFBIG) => ": the limit on the length of files (ulimit -f) is less than the guest's memory",
        _ => "",
    };
    format!("no sandbox process: {}{hint}", plain(error))
}

/// The same error, which says what could not be done.
fn during(what: &str) -> impl Fn(io::Error) -> io::Error {
    let what = what.to_string();
    // That one has words of its own.
    move |error| match error.raw_os_error() {
        Some(libc::EFBIG) => error,
        _ => io::Error::new(error.kind(), format!("{what}: {}", plain(&error))),
    }
}

fn limit(name: &'static str, flag: &'static str, value: u64, unit: &str) -> Failure {
    Failure::Limit { name, flag, value: format!("{value} {unit}") }
}

fn build_kvm(program: &Program<'_>, layout: &Layout, job: &Job<'_>) -> Result<(Machine, Shared), String> {
    let kvm = kvm::open().map_err(|e| e.0)?;
    let memory = Shared::new(layout.clone(), Backing::Anonymous).map_err(|e| format!("no memory: {}", plain(&e)))?;
    memory.prepare();
    fill(&memory, program, job, DOORBELL_PORT_IO).map_err(|e| format!("no random bytes: {}", plain(&e)))?;
    memory.fill(layout.often, program.often_bytes());
    let machine = Machine::new(&kvm, program, &memory).map_err(|e| e.0)?;
    Ok((machine, memory))
}

fn build_process(program: &Program<'_>, layout: &Layout, job: &Job<'_>) -> io::Result<(Sandbox, Shared)> {
    let memory = Shared::new(layout.clone(), Backing::File).map_err(during("its memory"))?;
    fill(&memory, program, job, DOORBELL_SYSCALL).map_err(during("random bytes"))?;
    let spawned = process::spawn(program, &memory, job.limits.cpu.map(|d| d.as_secs()));
    let children = spawned.map_err(during("it cannot be made"))?;
    Ok((Sandbox::Process(children), memory))
}

fn fill(memory: &Shared, program: &Program<'_>, job: &Job<'_>, doorbell: u32) -> io::Result<()> {
    let layout = memory.layout();
    // Keys are made of it: there is no substitute. So few bytes are never cut short.
    let mut entropy = [0; 32];
    rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty())?;
    let mut info = BootInfo {
        magic: BOOT_MAGIC,
        abi_version: ABI_VERSION,
        doorbell,
        workers: layout.workers,
        devices: job.devices.len() as u32,
        rings: layout.rings,
        ring_stride: layout.ring_stride,
        stacks: layout.stacks,
        stack_stride: layout.stack_stride,
        heap: layout.heap,
        heap_len: layout.heap_len,
        params: layout.params,
        params_len: layout.params_len,
        cpu: kvm::cpu_bits(),
        now_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        entropy,
    };
    memory.fill(layout.boot, info.as_bytes());
    info.entropy.zeroize();
    entropy.zeroize();
    memory.fill(layout.params, &job.params);
    memory.fill(layout.data, program.data_bytes());
    Ok(())
}

/// How it ended: the first end counts.
enum End {
    Served(Served),
    Fault(String),
    /// It never began.
    Unready(String),
}

fn thread() -> std::thread::Builder {
    std::thread::Builder::new()
}

/// Under a filter or a limit of somebody else's.
fn no_thread(error: &io::Error) -> End {
    End::Unready(format!("no thread: {}", words(error.raw_os_error().unwrap_or(libc::EAGAIN))))
}

struct Session<'a> {
    server: &'a Server<'a>,
    memory: &'a Shared,
    depth: Depth<'a>,
    limits: &'a Limits,
    last_words: Option<&'a LastWords>,
    ended: AtomicBool,
    end: Mutex<Option<End>>,
    started: Instant,
}

impl Attend for Session<'_> {
    fn rang(&self, worker: u32) -> bool {
        match self.server.serve(worker, self.memory, &self.depth) {
            Served::Continue => true,
            Served::Aborted => false,
            served => {
                self.finish(End::Served(served));
                false
            }
        }
    }

    fn ticked(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }
}

/// A worker's thread as the watchdog sees it: 0 before it runs and after.
type ThreadId = AtomicI32;

impl<'a> Session<'a> {
    fn new(server: &'a Server<'a>, memory: &'a Shared, limits: &'a Limits, last_words: Option<&'a LastWords>) -> Self {
        let (ended, end, started) = (AtomicBool::new(false), Mutex::new(None), Instant::now());
        Self { server, memory, depth: Depth::default(), limits, last_words, ended, end, started }
    }

    fn finish(&self, end: End) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end);
        self.ended.store(true, Ordering::Relaxed);
        self.server.abort();
    }

    fn stopped(&self, stop: Stop) {
        match stop {
            Stop::Fault(text) => self.finish(End::Fault(text)),
            Stop::Unready(text) => self.finish(End::Unready(text)),
            Stop::Served | Stop::Ended => {}
        }
    }

    fn run(&self, sandbox: Sandbox, children: &[libc::pid_t]) -> End {
        let threads: Vec<ThreadId> = (0..self.memory.layout().workers).map(|_| ThreadId::new(0)).collect();
        // The machine itself stays here until all its processors are back.
        let mut machine = None;
        let bodies: Vec<Box<dyn FnOnce() -> Stop + Send + '_>> = match sandbox {
            Sandbox::Kvm(built) => {
                let vcpus = machine.insert(built).take_vcpus();
                vcpus
                    .into_iter()
                    .map(|vcpu| Box::new(move || vcpu.run(self)) as Box<dyn FnOnce() -> Stop + Send>)
                    .collect()
            }
            Sandbox::Process(children) => children
                .into_iter()
                .map(|mut child| Box::new(move || child.run(self)) as Box<dyn FnOnce() -> Stop + Send>)
                .collect(),
        };
        let mut work = bodies.into_iter().zip(&threads);
        let main = work.next();
        std::thread::scope(|scope| {
            let watched = thread().spawn_scoped(scope, || self.watch(scope, &threads, children));
            let watchdog = match watched {
                Ok(watchdog) => {
                    self.depth.started_by(watchdog.thread().clone());
                    watchdog.thread().clone()
                }
                // Nobody would look at the limits: nothing has run yet, and nothing will.
                Err(error) => return self.finish(no_thread(&error)),
            };
            let attend = |body: Box<dyn FnOnce() -> Stop + Send + '_>, thread: &ThreadId, watchdog| {
                // SAFETY: takes nothing, gives a number.
                thread.store(unsafe { libc::gettid() }, Ordering::SeqCst);
                let _leaving = Leaving { session: self, thread, watchdog };
                let stop = body();
                self.stopped(stop);
            };
            for (worker, (body, thread)) in (1..).zip(work) {
                let watchdog = watchdog.clone();
                let body = move || {
                    crate::lockdown::drop_rest();
                    self.server.wait_for_first(worker);
                    let begins = self.ticked();
                    attend(if begins { body } else { Box::new(|| Stop::Ended) }, thread, watchdog);
                };
                if let Err(error) = self::thread().spawn_scoped(scope, body) {
                    self.finish(no_thread(&error));
                    thread.store(-1, Ordering::SeqCst);
                }
            }
            // The first worker runs on this thread: nothing is waited for that a short command does not need.
            match main {
                Some((body, thread)) if self.ticked() => attend(body, thread, watchdog),
                Some((_, thread)) => {
                    thread.store(-1, Ordering::SeqCst);
                    watchdog.unpark();
                }
                None => {}
            }
        });
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        end.unwrap_or(End::Served(Served::Aborted))
    }

    /// Begins the threads that are wanted for what is slow. Where there can be none the workers do it all.
    fn assisted<'s>(&'s self, scope: &'s Scope<'s, '_>, begun: &mut usize) {
        while let Some(thread) = self.depth.threads.get(*begun).filter(|_| *begun < self.depth.wanted()) {
            *begun += 1;
            // This thread is the watchdog.
            let watchdog = std::thread::current();
            let body = move || {
                crate::lockdown::drop_rest();
                // SAFETY: takes nothing, gives a number.
                thread.store(unsafe { libc::gettid() }, Ordering::SeqCst);
                let _leaving = Leaving { session: self, thread, watchdog };
                self.server.assist(&self.depth);
            };
            if self::thread().spawn_scoped(scope, body).is_err() {
                return;
            }
        }
    }

    /// Looks at the limits until every worker is back; once the end is there, reminds those that are not.
    fn watch<'s>(&'s self, scope: &'s Scope<'s, '_>, threads: &[ThreadId], children: &[libc::pid_t]) {
        crate::lockdown::drop_rest();
        let _closing = Closing(&self.depth);
        let (mut since, mut assistants) = (None, 0);
        loop {
            let ended = self.ended.load(Ordering::Relaxed);
            if threads.iter().all(|t| t.load(Ordering::SeqCst) == -1) {
                return;
            }
            self.assisted(scope, &mut assistants);
            if ended {
                if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    self.leave(children);
                }
                let all = threads.iter().chain(&self.depth.threads);
                for thread in all.map(|t| t.load(Ordering::SeqCst)).filter(|t| *t > 0) {
                    // SAFETY: a signal with a handler that does nothing, to a thread of this process.
                    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
                }
            } else if let Some(end) = self.over_limit(children) {
                self.finish(End::Served(end));
                continue;
            }
            std::thread::park_timeout(if ended { REMIND } else { TICK });
        }
    }

    /// Ends this program, if a limit is reached and a thread is not to be had back: it may be held by a read that is never
    /// answered. Its children go with it, and the process that publishes cleans up.
    fn leave(&self, children: &[libc::pid_t]) {
        let Some(LastWords { tell, status }) = self.last_words else { return };
        let limit = match &*self.end.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(End::Served(Served::Limit { name, flag, value })) => Some((*name, *flag, value.clone())),
            _ => None,
        };
        let limit = limit.or_else(|| match self.over_limit(children) {
            Some(Served::Limit { name, flag, value }) => Some((name, flag, value)),
            _ => None,
        });
        let Some((name, flag, value)) = limit else { return };
        let tell = tell.clone();
        // Standard error itself may be what holds the other thread.
        let told = thread().spawn(move || tell(&Failure::Limit { name, flag, value }));
        let until = Instant::now() + PATIENCE;
        while told.as_ref().is_ok_and(|told| !told.is_finished()) && Instant::now() < until {
            std::thread::sleep(REMIND);
        }
        // SAFETY: ends this process and all its threads; nothing of them is used any more.
        unsafe { libc::_exit(i32::from(*status)) }
    }

    fn over_limit(&self, children: &[libc::pid_t]) -> Option<Served> {
        let seconds = |d: Duration| format!("{} seconds", d.as_secs_f64());
        if let Some(max) = self.limits.wall.filter(|max| self.started.elapsed() > *max) {
            return Some(Served::Limit { name: "wall-clock time", flag: "--max-seconds", value: seconds(max) });
        }
        let used = || cpu_time(0) + children.iter().map(|pid| cpu_time(*pid)).sum::<Duration>();
        if let Some(max) = self.limits.cpu.filter(|max| used() > *max) {
            return Some(Served::Limit { name: "processor time", flag: "--max-cpu-seconds", value: seconds(max) });
        }
        None
    }
}

/// Processor time of a process (0: this one), all its threads together.
fn cpu_time(pid: libc::pid_t) -> Duration {
    // The clock's number as clock_getcpuclockid(3) makes it, which asks the kernel first: a system call more.
    const SCHEDULER: libc::clockid_t = 2;
    let clock = if pid == 0 { libc::CLOCK_PROCESS_CPUTIME_ID } else { !pid << 3 | SCHEDULER };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer; a process that is gone gives an error and no time.
    let ok = unsafe { libc::clock_gettime(clock, &raw mut time) == 0 };
    if ok { Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32) } else { Duration::ZERO }
}

/// When nobody watches any more, the threads for what is slow end, even after a panic.
struct Closing<'a, 's>(&'a Depth<'s>);

impl Drop for Closing<'_, '_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A thread of the server on its way out, even by a panic: nobody waits for it any more, and a panic ends the others.
struct Leaving<'a, 's> {
    session: &'a Session<'s>,
    thread: &'a ThreadId,
    watchdog: std::thread::Thread,
}

impl Drop for Leaving<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.session.finish(End::Fault("the host's server failed".to_string()));
        }
        self.thread.store(-1, Ordering::SeqCst);
        self.watchdog.unpark();
    }
}

/// What interrupts a thread's KVM_RUN or read.
const SIGNAL: i32 = libc::SIGUSR2;

fn prepare_signals(can_be_asked: bool) {
    extern "C" fn nothing(_: i32) {}
    extern "C" fn asked(_: i32) {
        ASKED.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handlers do nothing, or store one atomic. No restart flag for the first, because system calls are meant
    // to be interrupted.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut());
        if can_be_asked {
            action.sa_sigaction = asked as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
        }
        // A file that may not get that long is an error to be told, not the end.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
