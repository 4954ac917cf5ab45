//! What is run, and what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::policy::Asked;
use crate::{Device, Limits, Policy};

/// Where the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// KVM if it can be had, else a process.
    Auto,
    /// KVM or failure.
    Kvm,
    /// A process under seccomp.
    Process,
}

/// What is told while a guest runs. Called from the worker's thread, after lock-down: it may write to
/// standard output and error and nothing else.
pub trait Observer: Sync {
    /// `done` of `total` units.
    fn progress(&self, done: u64, total: u64);
    /// How long the worker that has just said that `done` units are done has to wait yet (a rate limit).
    fn delay(&self, _done: u64) -> std::time::Duration {
        std::time::Duration::ZERO
    }
    /// SIGUSR1 asks how far the work is ([`progress_asked`]), and does not end the program.
    fn can_be_asked(&self) -> bool {
        false
    }
    /// Lines or records (`instar_abi::ring::LOG_LINES` and its like); bytes as the guest sent them. Returns how many bytes
    /// were shown of it, which count against the limits.
    fn log(&self, level: u32, text: &[u8]) -> u64;
}

/// Set by SIGUSR1.
pub(crate) static ASKED: AtomicBool = AtomicBool::new(false);

/// Whether SIGUSR1 came since the last time this was asked for.
#[must_use]
pub fn progress_asked() -> bool {
    ASKED.swap(false, Ordering::Relaxed)
}

/// One run.
pub struct Job<'a> {
    /// The guest program: `None` is instar's own, embedded; tests bring another.
    pub guest: Option<&'a [u8]>,
    /// Where.
    pub isolation: Isolation,
    /// Workers wanted (at least 1).
    pub workers: u32,
    /// The devices, by index.
    pub devices: Vec<Device>,
    /// The parameters (an [`instar_abi::record`] stream).
    pub params: Vec<u8>,
    /// For names that images name.
    pub policy: Policy,
    /// The limits.
    pub limits: Limits,
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// Lock the host half down first. Only debug builds can say no.
    pub lock_down: bool,
    /// What is said where a limit cannot be kept otherwise than by ending this program; `None`: it is waited for.
    pub last_words: Option<LastWords>,
}

/// For a thread that the kernel does not give back: a read of a file whose file system does not answer, a write to a pipe
/// that nobody reads.
#[derive(Clone)]
pub struct LastWords {
    /// Tells of the limit. Called from a thread of its own, which is not waited for long.
    pub tell: Arc<dyn Fn(&Failure) + Send + Sync>,
    /// The exit status.
    pub status: u8,
}

/// The guest finished.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: u8,
    /// Its results (an [`instar_abi::record`] stream, not decoded, not trusted).
    pub results: Vec<u8>,
    /// Bytes of messages that were shown while it ran.
    pub message_bytes: u64,
    /// Where it ran: never `Auto`.
    pub isolation: Isolation,
    /// Why `Auto` did not choose KVM, if so.
    pub fallback: Option<String>,
    /// The kernel has Landlock, and it was in force.
    pub landlock: bool,
    /// What the files of a run may grow by together, if that was too little for something that the guest wanted.
    pub growth_refused: Option<u64>,
    /// The devices, those that images named behind the job's own.
    pub devices: Vec<Device>,
    /// What images named, and what came of it.
    pub asked: Vec<Asked>,
}

/// The guest did not finish. Each has a text of its own; the host is unaffected by all of them.
#[derive(Debug)]
pub enum Failure {
    /// `Kvm` was asked for and cannot be had: why, and what to do.
    NoKvm(String),
    /// The guest broke a rule, faulted or panicked: what happened.
    Guest(String),
    /// A limit was reached: its name, its flag, its value.
    Limit { name: &'static str, flag: &'static str, value: String },
    /// The host could not set the sandbox up.
    Host(String),
}
