//! Limits on one run, each far beyond what a legitimate image needs, each with a flag.

use std::time::Duration;

use rustix::process::{Resource, Rlimit};

/// What the guest tells in results: the limit's name and flag.
pub const RESULTS: (&str, &str) = ("size of the results", "--max-results");
/// What it tells in messages.
pub const MESSAGES: (&str, &str) = ("length of the messages", "--max-messages");

/// What all files grow by together.
pub const GROWTH: (&str, &str) = ("growth of the output", "--max-output-growth");

/// The least guest memory in bytes that a command can run with.
pub const GUEST_MEMORY_MIN: u64 = 4 << 20;

/// The limits. `None` is no limit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Processor time of the guest, all workers together (`--max-cpu-seconds`).
    pub cpu: Option<Duration>,
    /// Wall-clock time (`--max-seconds`).
    pub wall: Option<Duration>,
    /// Guest memory in bytes (`--max-guest-memory`).
    pub guest_memory_bytes: u64,
    /// Requests (`--max-requests`).
    pub requests: Option<u64>,
    /// Bytes of results (records) that the guest may emit (`--max-results`).
    pub result_bytes: u64,
    /// Bytes that may be shown of records while the guest runs, and of its results afterwards (`--max-results`).
    pub shown_bytes: u64,
    /// Bytes of messages (`--max-messages`).
    pub message_bytes: u64,
}

/// An image of many files takes a descriptor for each, and two for each that is published: as many are allowed as the user
/// allows at most.
pub fn allow_many_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Where more are not to be had, what is there has to do.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
