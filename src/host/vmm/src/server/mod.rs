//! The server: the only code that meets what a guest sends.
//!
//! A worker's thread calls [`Server::serve`] at each doorbell. Each request is copied out of shared memory once,
//! checked whole (`check`), and only then carried out (`exec`): on the same thread where its devices answer as memory does
//! (`pace`), else in pieces by several threads (`depth`, `pieces`).

mod bulk;
mod check;
mod depth;
mod direct;
mod exec;
mod pace;
mod pieces;
mod table;
pub use depth::Depth;
pub use table::{Holder, Slot};
mod wait;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use instar_abi::ring::{BATCH_MAX, LOG_LINES, Op, Reply, Status};

use crate::limits::{MESSAGES, RESULTS};
use crate::memory::Shared;
use crate::{Device, Limits, Observer, Policy};
use check::Checked;
use depth::{Batch, Claim};
use table::Table;
use wait::Semaphore;

/// What a doorbell came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// The replies are there.
    Continue,
    /// The command is over, with that exit status.
    Finished(u8),
    /// The guest panicked, and said that.
    Panicked(String),
    /// The guest broke the protocol in a way that no bug of a parser explains.
    Broke(String),
    /// A limit: its name, its flag, its value.
    Limit {
        /// Name.
        name: &'static str,
        /// Flag that raises it.
        flag: &'static str,
        /// Value in force.
        value: String,
    },
    /// The run was ended by somebody else.
    Aborted,
}

/// The state of one run.
pub struct Server<'a> {
    table: Table,
    policy: crate::policy::Gate,
    asked: crate::policy::Log,
    limits: Limits,
    observer: &'a dyn Observer,
    results: Mutex<Vec<u8>>,
    requests: AtomicU64,
    /// Bytes of messages that were shown.
    messages: AtomicU64,
    /// Bytes of records that were shown.
    shown: AtomicU64,
    sleepers: Vec<Semaphore>,
    buffers: Vec<Mutex<bulk::Buffer>>,
    started: Instant,
    /// The limit on growth, once something was refused for it.
    growth_refused: AtomicU64,
    sealed: AtomicBool,
    aborted: AtomicBool,
    /// Held while a file is opened: nobody else of the run has it until it has its place.
    opening: Mutex<()>,
}

impl<'a> Server<'a> {
    /// A server for these devices.
    #[must_use]
    pub fn new(
        mut devices: Vec<Device>,
        policy: Policy,
        limits: Limits,
        observer: &'a dyn Observer,
        workers: u32,
    ) -> Self {
        let gate = crate::policy::Gate::new(policy, &mut devices);
        Self {
            table: Table::new(devices),
            policy: gate,
            asked: crate::policy::Log::default(),
            limits,
            observer,
            results: Mutex::default(),
            requests: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            shown: AtomicU64::new(0),
            sleepers: (0..workers).map(|_| Semaphore::default()).collect(),
            buffers: (0..workers).map(|_| Mutex::default()).collect(),
            started: Instant::now(),
            growth_refused: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            opening: Mutex::default(),
        }
    }

    /// The directories that the policy may open files below, and whether for writing.
    pub fn directories(&self) -> impl Iterator<Item = (&std::os::fd::OwnedFd, bool)> {
        self.policy.directories()
    }

    /// Files may be made beside a device.
    #[must_use]
    pub fn makes_files(&self) -> bool {
        self.table.any(|device| device.maker.is_some())
    }

    /// Until another worker wakes this one for the first time, or the run is over: a short command needs one worker, and to
    /// begin takes longer than all that it does.
    pub fn wait_for_first(&self, worker: u32) {
        drop(self.sleepers[worker as usize].until_woken(None, &self.aborted));
    }

    /// Serves worker `worker`'s batch.
    pub fn serve<'m>(&self, worker: u32, memory: &'m Shared, depth: &Depth<'m>) -> Served {
        if self.aborted.load(Ordering::Relaxed) {
            return Served::Aborted;
        }
        let count = memory.ring_count(worker) as usize;
        if count == 0 || count > BATCH_MAX {
            return Served::Broke(format!("a batch of {count} requests"));
        }
        let before = self.requests.fetch_add(count as u64, Ordering::Relaxed);
        if let Some(max) = self.limits.requests.filter(|max| before + count as u64 > *max) {
            return Served::Limit { name: "number of requests", flag: "--max-requests", value: max.to_string() };
        }
        // Requests of one batch may be carried out in any order.
        let (mut slow, mut bytes) = (Vec::new(), 0);
        for number in 0..count {
            // Each may take as long as a slow disk takes for all of the guest's memory.
            if self.aborted.load(Ordering::Relaxed) {
                return Served::Aborted;
            }
            let request = memory.request(worker, number);
            let reply = match check::check(&request, &self.table, memory) {
                Err(status) => exec::refused(status),
                Ok(request) if request.slot.is_some() => match self.at_once(worker, &request) {
                    Some(reply) => reply,
                    None => {
                        bytes += request.len;
                        slow.push((number, request));
                        if bytes >= pieces::DUE {
                            bytes = 0;
                            self.deeply(worker, memory, depth, &mut slow);
                        }
                        continue;
                    }
                },
                // It may end the run, or wait for another worker.
                Ok(request) => {
                    self.deeply(worker, memory, depth, &mut slow);
                    match self.without_device(worker, &request) {
                        Ok(reply) => reply,
                        Err(end) => return end,
                    }
                }
            };
            memory.set_reply(worker, number, reply);
        }
        self.deeply(worker, memory, depth, &mut slow);
        if self.aborted.load(Ordering::Relaxed) { Served::Aborted } else { Served::Continue }
    }

    fn buffer(&self, worker: u32) -> std::sync::MutexGuard<'_, bulk::Buffer> {
        self.buffers[worker as usize].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The answer to a request to a device; `None`: it is worth being carried out in pieces.
    fn at_once(&self, worker: u32, request: &Checked<'_>) -> Option<Reply> {
        if let Err(no) = self.admit(request) {
            return Some(no);
        }
        if !pieces::is_slow(request) {
            return Some(self.timed(&mut self.buffer(worker), request).unwrap_or_else(|no| no));
        }
        // Blocks are shared all at once.
        let (Op::Copy, Some(from), Some(to)) = (request.op, &request.slot, &request.slot2) else { return None };
        let shared = bulk::share((from, request.offset), (to, request.offset2), request.len);
        shared.then(|| {
            crate::tally::carried_out(request.op, request.len);
            Reply { value: request.len, ..Reply::default() }
        })
    }

    /// Carries out what was put off, with all the threads there are.
    fn deeply<'m>(&self, worker: u32, memory: &Shared, depth: &Depth<'m>, slow: &mut Vec<(usize, Checked<'m>)>) {
        if slow.is_empty() {
            return;
        }
        let mut all = Vec::new();
        let counts: Vec<_> =
            slow.drain(..).map(|(number, request)| (number, pieces::cut(&request, &mut all))).collect();
        let batch = Batch::new(all, counts.iter().map(|(_, count)| *count));
        let buffer = &mut self.buffer(worker);
        let mut first = 0;
        for (_, count) in &counts {
            if !pieces::answers(&batch.pieces[first]) {
                self.take(batch.claim_one(first, &self.aborted), buffer);
            }
            first += count;
        }
        depth.hand_in(&batch);
        self.take_part(&batch, buffer);
        let mut outcomes = batch.outcomes();
        depth.take_back(&batch);
        let (mut pieces, mut outcomes) = (batch.pieces.as_slice(), outcomes.as_mut_slice());
        for (number, count) in counts {
            let (these, those) = (pieces.split_at(count), std::mem::take(&mut outcomes).split_at_mut(count));
            if let Some(reply) = pieces::join(these.0, those.0) {
                memory.set_reply(worker, number, reply);
            }
            (pieces, outcomes) = (these.1, those.1);
        }
    }

    fn take_part(&self, batch: &Batch<'_>, buffer: &mut bulk::Buffer) {
        while self.take(batch.claim(&self.aborted), buffer) {}
    }

    /// Carries out a piece, if there is one.
    fn take(&self, claim: Option<Claim<'_, '_>>, buffer: &mut bulk::Buffer) -> bool {
        let Some(claim) = claim else { return false };
        let outcome = self.timed(buffer, claim.piece());
        claim.done(outcome);
        true
    }

    /// Carries out a request, and remembers how its devices answer.
    fn timed(&self, buffer: &mut bulk::Buffer, request: &Checked<'_>) -> exec::Outcome {
        let begun = Instant::now();
        let outcome = self.carry_out(buffer, request);
        if outcome.is_ok() {
            crate::tally::carried_out(request.op, request.len);
        }
        if request.moves() {
            let took = begun.elapsed();
            request.slots().for_each(|slot| slot.pace.took(request.len, took));
        }
        outcome
    }

    /// What a thread does that is there for what is slow: it takes part in what workers hand in, until there will be no more.
    pub fn assist(&self, depth: &Depth<'_>) {
        let mut buffer = bulk::Buffer::default();
        while let Some(batch) = depth.next() {
            self.take_part(&batch, &mut buffer);
        }
    }

    fn without_device(&self, worker: u32, checked: &Checked<'_>) -> Result<Reply, Served> {
        match checked.op {
            Op::Finish => Err(Served::Finished(checked.arg as u8)),
            Op::Panic if checked.arg == 1 => {
                let value = format!("{} bytes", self.limits.guest_memory_bytes);
                Err(Served::Limit { name: "guest memory", flag: "--max-guest-memory", value })
            }
            Op::Panic => Err(Served::Panicked(String::from_utf8_lossy(&checked.buf.to_vec()).into_owned())),
            Op::Wait => {
                let max = (checked.len != 0).then(|| Duration::from_micros(checked.len));
                self.sleepers[worker as usize].wait(max, &self.aborted);
                Ok(Reply::default())
            }
            Op::Wake => Ok(match self.sleepers.get(checked.arg as usize) {
                Some(sleeper) => {
                    sleeper.wake();
                    Reply::default()
                }
                None => exec::refused(Status::BadRequest),
            }),
            Op::Emit => self.emit(checked),
            Op::Log => self.log(checked),
            _ => Ok(self.simple(worker, checked).unwrap_or_else(|no| no)),
        }
    }

    fn emit(&self, checked: &Checked<'_>) -> Result<Reply, Served> {
        let mut results = self.results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if results.len() as u64 + checked.buf.len() as u64 > self.limits.result_bytes {
            let value = format!("{} bytes", self.limits.result_bytes);
            return Err(Served::Limit { name: RESULTS.0, flag: RESULTS.1, value });
        }
        results.extend_from_slice(&checked.buf.to_vec());
        Ok(Reply::default())
    }

    /// Shows lines or records; what is over a limit is not shown, or is the last that is.
    fn log(&self, checked: &Checked<'_>) -> Result<Reply, Served> {
        let (shown, max, (name, flag)) = match checked.arg {
            LOG_LINES => (&self.messages, self.limits.message_bytes, MESSAGES),
            _ => (&self.shown, self.limits.shown_bytes, RESULTS),
        };
        let over = |bytes: u64| (bytes > max).then(|| Served::Limit { name, flag, value: format!("{max} bytes") });
        let text = checked.buf.to_vec();
        // Not even an empty one is free.
        if let Some(end) = over(shown.load(Ordering::Relaxed).saturating_add(text.len().max(1) as u64)) {
            return Err(end);
        }
        let bytes = self.observer.log(checked.arg, &text).max(1);
        over(shown.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes)).map_or(Ok(Reply::default()), Err)
    }

    /// Ends the run: every waiting worker wakes, every `serve` says so.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        for sleeper in &self.sleepers {
            sleeper.wake();
        }
    }

    /// How many bytes of messages were shown.
    #[must_use]
    pub fn message_bytes(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// What the files may grow by, if that was too little.
    #[must_use]
    pub fn growth_refused(&self) -> Option<u64> {
        Some(self.growth_refused.load(Ordering::Relaxed)).filter(|limit| *limit != 0)
    }

    /// What images named.
    #[must_use]
    pub fn take_asked(&self) -> Vec<crate::policy::Asked> {
        self.asked.take()
    }

    /// Nothing more will be written.
    ///
    /// # Errors
    /// A file could not be given its length.
    pub fn finish(&self) -> std::io::Result<()> {
        self.table.finish()
    }

    /// The devices, with those that images named, and the results.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Device>, Vec<u8>) {
        (self.table.into_devices(), self.results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[cfg(test)]
mod names;
#[cfg(test)]
mod tests;
