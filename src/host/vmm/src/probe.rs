//! What this machine offers: for `instar doctor`.

use std::io::{Read, Write, pipe};
use std::time::{Duration, Instant};

use crate::backend::plain;
use crate::{Device, Failure, Isolation, Job, Limits, Mode, Observer, Policy};

/// The findings.
#[derive(Clone, Debug)]
pub struct Capabilities {
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
        landlock: crate::lockdown::landlock_version(),
        seccomp: has_seccomp(),
        namespaces: may_unshare(),
        fast_guest: crate::guest::fast(),
    }
}

/// What came of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// The guest ran, and that took so long.
    Works(Duration),
    /// There is no such place; the automatic choice goes on to the next one.
    Absent(String),
    /// The guest was to run there, and did not.
    Fails(String),
}

struct Silent;

impl Observer for Silent {
    fn progress(&self, _done: u64, _total: u64) {}
    fn log(&self, _level: u32, _text: &[u8]) -> u64 {
        0
    }
}

/// Has the guest read an empty file, as in a command: with the whole lock-down, which nothing takes back, and therefore in a
/// process of its own. Must be called while this process has one thread.
#[must_use]
pub fn attempt(isolation: Isolation, params: Vec<u8>) -> Trial {
    let started = Instant::now();
    let in_child = || -> std::io::Result<Vec<u8>> {
        // Where there can be none, or it cannot be read, the exit status tells as much as it can.
        let mut line = pipe();
        // SAFETY: there is one thread; the child ends in `_exit` and comes back nowhere, not even by a panic.
        match unsafe { libc::fork() } {
            -1 => Err(std::io::Error::last_os_error()),
            0 => {
                // Whatever holds it, whoever asks gets an answer.
                // SAFETY: a signal later on, which ends this process.
                unsafe { libc::alarm(SECONDS) };
                let told = std::panic::catch_unwind(|| told(&run(isolation, params)));
                let told = told.unwrap_or_else(|_| vec![FAILS]);
                if let Ok((_, writer)) = &mut line {
                    let _ = writer.write_all(&told);
                }
                // SAFETY: ends this process at once.
                unsafe { libc::_exit(told.first().map_or(FAILS, |kind| *kind).into()) }
            }
            child => {
                let mut status = 0;
                // SAFETY: our own child, not waited for yet.
                let waited = unsafe { libc::waitpid(child, &raw mut status, 0) } == child;
                if waited && !libc::WIFEXITED(status) {
                    return Ok(Vec::new());
                }
                // All that it has said is there, in one piece that the pipe has room for: its end, which may not come where
                // nothing may be closed, is not waited for.
                let mut answer = vec![0; ANSWER_MAX];
                let read = line.and_then(|(mut reader, writer)| {
                    drop(writer);
                    reader.read(&mut answer)
                });
                match read {
                    Ok(len) => answer.truncate(len),
                    Err(error) if !waited => return Err(error),
                    Err(_) => answer = unread(libc::WEXITSTATUS(status), started.elapsed()),
                }
                Ok(answer)
            }
        }
    };
    match in_child() {
        Ok(answer) => understood(&answer),
        Err(error) => Trial::Fails(format!("it cannot be tried: {}", plain(&error))),
    }
}

/// A trial takes some milliseconds.
const SECONDS: u32 = 30;
/// Bytes of what is said of it.
const ANSWER_MAX: usize = 2048;

const WORKS: u8 = 0;
const ABSENT: u8 = 1;
const FAILS: u8 = 2;

fn told(trial: &Trial) -> Vec<u8> {
    let (kind, text) = match trial {
        Trial::Works(time) => (WORKS, time.as_micros().to_string()),
        Trial::Absent(why) => (ABSENT, why.clone()),
        Trial::Fails(why) => (FAILS, why.clone()),
    };
    let mut answer = [&[kind], text.as_bytes()].concat();
    answer.truncate(ANSWER_MAX);
    answer
}

/// What it would have said.
fn unread(status: i32, took: Duration) -> Vec<u8> {
    let why = "what it says of it cannot be read here".to_string();
    told(&match u8::try_from(status) {
        Ok(WORKS) => Trial::Works(took),
        Ok(ABSENT) => Trial::Absent(why),
        _ => Trial::Fails(why),
    })
}

fn understood(answer: &[u8]) -> Trial {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match answer {
        [WORKS, time @ ..] => Trial::Works(Duration::from_micros(text(time).parse().unwrap_or_default())),
        [ABSENT, why @ ..] => Trial::Absent(text(why)),
        [FAILS, why @ ..] if !why.is_empty() => Trial::Fails(text(why)),
        _ => Trial::Fails("it ended without a word".to_string()),
    }
}

fn run(isolation: Isolation, params: Vec<u8>) -> Trial {
    const EMPTY: u64 = 1 << 20;
    let started = Instant::now();
    let file = match rustix::fs::memfd_create(c"instar-doctor", rustix::fs::MemfdFlags::CLOEXEC) {
        Ok(file) => std::fs::File::from(file),
        Err(error) => return Trial::Fails(format!("no file in memory: {}", plain(&error.into()))),
    };
    // Where that is denied, an empty one is looked at.
    let _ = file.set_len(EMPTY);
    // It has a folder, as images have, which Landlock is told of.
    let device = Device::new(file, "/instar-doctor".into(), Mode::Read);
    let seconds = Some(Duration::from_secs(10));
    let outcome = crate::run(Job {
        guest: None,
        isolation,
        workers: 2,
        devices: vec![device],
        params,
        policy: Policy::default(),
        limits: Limits {
            cpu: seconds,
            wall: seconds,
            guest_memory_bytes: 64 << 20,
            requests: Some(10_000),
            result_bytes: 1 << 20,
            shown_bytes: 1 << 20,
            message_bytes: 1 << 20,
        },
        observer: &Silent,
        lock_down: true,
        last_words: None,
    });
    match outcome {
        Ok(outcome) if outcome.status == 0 => Trial::Works(started.elapsed()),
        Ok(outcome) => Trial::Fails(format!("the guest ended with status {}", outcome.status)),
        Err(Failure::NoKvm(why)) => Trial::Absent(why),
        Err(Failure::Host(why) | Failure::Guest(why)) => Trial::Fails(why),
        Err(Failure::Limit { name, value, .. }) => Trial::Fails(format!("the limit on {name} was reached ({value})")),
    }
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
