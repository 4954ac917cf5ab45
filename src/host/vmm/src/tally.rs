//! What this process's run came to so far, counted by the host: for a report, however the run ends.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use instar_abi::ring::Op;

use crate::Isolation;

/// Names that are kept; of more, only how many there were is.
const NAMES_MAX: usize = 16;

static READ: AtomicU64 = AtomicU64::new(0);
static WRITTEN: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
static NAMES: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static PLACE: AtomicU8 = AtomicU8::new(0);

/// The counts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Bytes read from files.
    pub read: u64,
    /// Bytes written to files; blocks that files share count, zeroes do not.
    pub written: u64,
    /// Names in images that the policy refused.
    pub refused: u64,
    /// The first of them.
    pub names: Vec<Vec<u8>>,
    /// Where the guest ran, if it did.
    pub isolation: Option<Isolation>,
    /// Processor time of all processes of the run that have ended, and of this one.
    pub cpu: Duration,
    /// Most memory that the largest of them had, in bytes.
    pub peak: u64,
}

/// As it is now.
#[must_use]
pub fn now() -> Tally {
    let usage = |who: i32| {
        // SAFETY: a structure of numbers, for which zeroes are valid; the call fills it or leaves it.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: a valid pointer to it.
        let _ = unsafe { libc::getrusage(who, &raw mut usage) };
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    let all = [usage(libc::RUSAGE_SELF), usage(libc::RUSAGE_CHILDREN)];
    Tally {
        read: READ.load(Ordering::Relaxed),
        written: WRITTEN.load(Ordering::Relaxed),
        refused: REFUSED.load(Ordering::Relaxed),
        names: NAMES.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        isolation: match PLACE.load(Ordering::Relaxed) {
            1 => Some(Isolation::Kvm),
            2 => Some(Isolation::Process),
            _ => None,
        },
        cpu: all.iter().map(|usage| time(usage.ru_utime) + time(usage.ru_stime)).sum(),
        peak: all.iter().map(|usage| usage.ru_maxrss.unsigned_abs() << 10).max().unwrap_or(0),
    }
}

/// The guest is about to run there.
pub(crate) fn runs(isolation: Isolation) {
    PLACE.store(if isolation == Isolation::Kvm { 1 } else { 2 }, Ordering::Relaxed);
}

/// A request of so many bytes was carried out.
pub(crate) fn carried_out(op: Op, len: u64) {
    let (read, written) = match op {
        Op::Read => (len, 0),
        Op::Write => (0, len),
        Op::Copy => (len, len),
        Op::Compare => (len.saturating_mul(2), 0),
        _ => return,
    };
    READ.fetch_add(read, Ordering::Relaxed);
    WRITTEN.fetch_add(written, Ordering::Relaxed);
}

/// A name was refused.
pub(crate) fn refused(name: &[u8]) {
    REFUSED.fetch_add(1, Ordering::Relaxed);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if names.len() < NAMES_MAX && !names.iter().any(|have| have == name) {
        names.push(name.to_vec());
    }
}
