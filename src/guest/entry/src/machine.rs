//! [`instar_image::Machine`] over the ring.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use instar_abi::boot::{BootInfo, MAX_WORKERS, WORKER_MEMORY};
use instar_abi::ops::Secret;
use instar_abi::record;
use instar_abi::ring::{
    BATCH_MAX, Beside, ExtentEntry, FLAG_ALLOCATE, FLAG_FULL, FLAG_SKIP_ZERO, FLAG_UNMAP, FLAG_WRITE, LOG_LINES,
    LOG_RECORDS, Op, Reply, Request, Role, STAT_ALIGNMENT_SHIFT, STAT_BLOCK_DEVICE, STAT_CONTENDED, STAT_FRESH,
    STAT_HINT_SHIFT, STAT_SAME_FILE_SHIFT, STAT_SHARES, STAT_SLOW, STAT_WRITABLE,
};
use instar_image::keys::Keys;
use instar_image::machine::{self, Parallel};
use instar_image::named::NamedFiles;
use instar_image::{
    DeviceId, FileOffset, Machine, RangePair, Read, Result, Run, Sink, Source, Stat, Step, Value, Zeroes,
};
use spin::Mutex;
use zerocopy::FromBytes;

use crate::failure;
use crate::ring::Client;
use crate::workers::Workers;

/// Runs of one [`Op::Extents`] request.
const RUNS_PER_REQUEST: usize = 512;
/// A progress report is worth a crossing only when so many parts of the whole have been done since the last.
const PROGRESS_PARTS: u64 = 2000;

/// The sandboxed machine.
pub struct RingMachine {
    clients: Vec<Client>,
    heap: core::ops::Range<u64>,
    stacks: u64,
    stack_stride: u64,
    workers: Workers,
    /// How many take part in what is done by all: so many have the memory for it.
    taking_part: usize,
    reported: AtomicU64,
    now: u64,
    /// The only source of randomness: ChaCha20, seeded with what the host took from its kernel.
    random: Mutex<ChaCha20Rng>,
    stock: AtomicBool,
    secrets: spin::Once<Vec<(String, Vec<u8>)>>,
    keys: Keys,
    named: NamedFiles,
}

const fn request(op: Op) -> Request {
    Request {
        op: op as u16,
        flags: 0,
        dev: 0,
        offset: 0,
        len: 0,
        buf: 0,
        buf_len: 0,
        dev2: 0,
        arg: 0,
        offset2: 0,
        reserved: 0,
    }
}

impl RingMachine {
    /// The machine that `boot` describes.
    ///
    /// # Safety
    /// `boot` is the host's boot page, and there is one machine only.
    #[must_use]
    pub unsafe fn new(boot: &BootInfo) -> Self {
        let count = boot.workers.clamp(1, MAX_WORKERS) as usize;
        Self {
            // SAFETY: one client a worker; `client` hands each to its own worker.
            clients: (0..count).map(|w| unsafe { Client::new(boot, w) }).collect(),
            heap: boot.heap..boot.heap.saturating_add(boot.heap_len),
            stacks: boot.stacks,
            stack_stride: boot.stack_stride.max(1),
            workers: Workers::new(),
            taking_part: usize::try_from(boot.heap_len / WORKER_MEMORY).unwrap_or(usize::MAX).clamp(1, count),
            reported: AtomicU64::new(0),
            now: boot.now_seconds,
            random: Mutex::new(ChaCha20Rng::from_seed(boot.entropy)),
            stock: AtomicBool::new(false),
            secrets: spin::Once::new(),
            keys: Keys::new(),
            named: NamedFiles::new(),
        }
    }

    /// What [`Source::is_stock`] says from now on.
    pub fn set_stock(&self, stock: bool) {
        self.stock.store(stock, Ordering::Relaxed);
    }

    /// What [`Source::secret`] knows from now on: the parameter `secrets`.
    pub fn set_secrets(&self, secrets: Vec<Secret>) {
        self.secrets.call_once(|| secrets.into_iter().map(|secret| (secret.id, secret.data)).collect());
    }

    fn client(&self) -> &Client {
        &self.clients[self.current()]
    }

    /// Which worker runs this: each has a stack of its own.
    fn current(&self) -> usize {
        let here = 0u8;
        let inside = (&raw const here as u64).saturating_sub(self.stacks);
        usize::try_from(inside / self.stack_stride).unwrap_or(0).min(self.clients.len() - 1)
    }

    /// The other workers' life: wait, work, report.
    pub fn serve_worker(&self, worker: usize) -> ! {
        loop {
            self.client().one(request(Op::Wait));
            self.workers.take_part(worker);
        }
    }

    /// Ends the run.
    pub fn finish(&self, status: u8) -> ! {
        loop {
            self.client().one(Request { arg: u32::from(status), ..request(Op::Finish) });
        }
    }

    /// One request as it is, whatever the answer: for the panic handler and for tests.
    pub fn raw_call(&self, request: Request) -> Reply {
        self.client().one(request)
    }

    /// A batch as it is, whatever the answers.
    pub fn raw_batch(&self, requests: &[Request]) {
        self.client().batch(requests, |_, _| {});
    }

    /// Rings for `count` requests, whatever the ring holds.
    ///
    /// # Safety
    /// Only in the sandbox, where the doorbell is one.
    pub unsafe fn raw_ring(&self, count: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.client().ring(count) };
    }

    fn in_heap(&self, bytes: &[u8]) -> bool {
        let at = bytes.as_ptr() as u64;
        bytes.is_empty() || (at >= self.heap.start && at + bytes.len() as u64 <= self.heap.end)
    }

    /// Gives `act` the bytes at a place that the host can reach.
    fn reachable<T>(&self, bytes: &[u8], act: impl FnOnce(&[u8]) -> T) -> T {
        if self.in_heap(bytes) { act(bytes) } else { act(&Vec::from(bytes)) }
    }

    /// Hands bytes to whoever watches the run.
    fn tell(&self, level: u32, bytes: &[u8]) -> Result<()> {
        self.reachable(bytes, |bytes| {
            let buf = bytes.as_ptr() as u64;
            self.call(Request { arg: level, buf, buf_len: bytes.len() as u64, ..request(Op::Log) }).map(|_| ())
        })
    }

    fn call(&self, request: Request) -> Result<Reply> {
        failure::check(self.client().one(request))
    }

    fn run_batch(&self, batch: &mut Vec<Request>) -> Result<()> {
        self.run_steps(batch, &mut Vec::new())
    }

    /// The same; `steps`: the number of the step that each request is for.
    fn run_steps(&self, batch: &mut Vec<Request>, steps: &mut Vec<usize>) -> Result<()> {
        let mut result = Ok(());
        let mut resized = None;
        if batch.is_empty() {
            return result;
        }
        self.client().batch(batch, |index, reply| {
            if let (Ok(()), Err(error)) = (&result, failure::check(reply)) {
                let request = batch.get(index);
                let is_copy = request.is_some_and(|request| request.op == Op::Copy as u16);
                resized = request.filter(|request| request.op == Op::SetLength as u16).map(|request| request.dev);
                let step = steps.get(index).copied().unwrap_or_default();
                result = Err(if is_copy { failure::of_copy(error, reply, step) } else { error });
            }
        });
        batch.clear();
        steps.clear();
        match (result, resized) {
            (Err(error), Some(dev)) if self.stat(DeviceId(dev)).is_ok_and(|stat| stat.block_device) => {
                Err(failure::of_length(error))
            }
            (result, _) => result,
        }
    }
}

impl Parallel for RingMachine {
    fn each(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = |_worker| {
            while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count) {
                body(number);
            }
        };
        if count > 1 { machine::Workers::broadcast(self, &work) } else { work(0) }
    }
}

impl Source for RingMachine {
    fn keys(&self) -> Option<&Keys> {
        Some(&self.keys)
    }

    fn secret(&self, id: &str) -> Option<&[u8]> {
        self.secrets.get()?.iter().find(|(name, _)| name == id).map(|(_, data)| data.as_slice())
    }

    fn is_stock(&self) -> bool {
        self.stock.load(Ordering::Relaxed)
    }

    fn stat(&self, device: DeviceId) -> Result<Stat> {
        let reply = self.call(Request { dev: device.0, ..request(Op::Stat) })?;
        Ok(Stat {
            len: reply.value,
            allocated: reply.value2,
            block_device: reply.value3 & STAT_BLOCK_DEVICE != 0,
            writable: reply.value3 & STAT_WRITABLE != 0,
            fresh: reply.value3 & STAT_FRESH != 0,
            contended: reply.value3 & STAT_CONTENDED != 0,
            slow: reply.value3 & STAT_SLOW != 0,
            shares: reply.value3 & STAT_SHARES != 0,
            same_file: DeviceId((reply.value3 as u32) >> STAT_SAME_FILE_SHIFT),
            extent_size_hint: (reply.value3 >> STAT_HINT_SHIFT & 0xff_ffff) * 512,
            alignment: 1u32.checked_shl((reply.value3 >> STAT_ALIGNMENT_SHIFT) as u32).unwrap_or(1),
        })
    }

    fn read_many(&self, reads: &mut [Read<'_>]) -> Result<()> {
        for part in reads.chunks_mut(BATCH_MAX) {
            let mut bounce: Vec<(usize, Vec<u8>)> = Vec::new();
            let mut batch = Vec::with_capacity(part.len());
            // An empty buffer has no place that the host would accept.
            for (i, read) in part.iter_mut().enumerate().filter(|(_, read)| !read.buf.is_empty()) {
                let buf = if self.in_heap(read.buf) {
                    read.buf.as_mut_ptr() as u64
                } else {
                    bounce.push((i, alloc::vec![0; read.buf.len()]));
                    bounce.last_mut().map_or(0, |(_, b)| b.as_mut_ptr() as u64)
                };
                batch.push(Request {
                    dev: read.device.0,
                    offset: read.offset.get(),
                    len: read.buf.len() as u64,
                    buf,
                    ..request(Op::Read)
                });
            }
            self.run_batch(&mut batch)?;
            for (i, bytes) in bounce {
                part[i].buf.copy_from_slice(&bytes);
            }
        }
        Ok(())
    }

    fn runs(&self, device: DeviceId, offset: FileOffset, len: u64, runs: &mut Vec<Run>) -> Result<FileOffset> {
        let bytes = alloc::vec![0u8; RUNS_PER_REQUEST * size_of::<ExtentEntry>()];
        let reply = self.call(Request {
            dev: device.0,
            offset: offset.get(),
            len,
            buf: bytes.as_ptr() as u64,
            buf_len: bytes.len() as u64,
            ..request(Op::Extents)
        })?;
        let entries = bytes.chunks_exact(size_of::<ExtentEntry>()).take(reply.value as usize);
        for entry in entries.filter_map(|b| ExtentEntry::read_from_bytes(b).ok()) {
            runs.push(Run { len: entry.len, data: entry.data != 0 });
        }
        Ok(FileOffset::new(reply.value2))
    }

    fn equal_prefixes(&self, pairs: &[RangePair], equal: &mut [u64]) -> Result<()> {
        for (pairs, equal) in pairs.chunks(BATCH_MAX).zip(equal.chunks_mut(BATCH_MAX)) {
            let compare = |pair: &RangePair| Request {
                dev: pair.a.0.0,
                offset: pair.a.1.get(),
                dev2: pair.b.0.0,
                offset2: pair.b.1.get(),
                len: pair.len,
                ..request(Op::Compare)
            };
            let requests: Vec<Request> = pairs.iter().map(compare).collect();
            let mut result = Ok(());
            self.client().batch(&requests, |i, reply| match (failure::check(reply), equal.get_mut(i)) {
                (Ok(reply), Some(equal)) => *equal = reply.value,
                (Ok(_), None) => {}
                (Err(error), _) => result = Err(error),
            });
            result?;
        }
        Ok(())
    }
}

impl Sink for RingMachine {
    fn submit(&self, steps: &[Step<'_>]) -> Result<()> {
        let mut batch: Vec<Request> = Vec::with_capacity(steps.len().min(BATCH_MAX));
        // What is not in the heap is copied there, and stays until its batch has been served.
        let mut bounce: Vec<Vec<u8>> = Vec::new();
        let mut numbers = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            // Nothing to write needs no place to be written from.
            if matches!(step, Step::Write { data: [], .. }) {
                continue;
            }
            let next = match *step {
                Step::Write { device, offset, data } => {
                    let buf = if self.in_heap(data) {
                        data.as_ptr() as u64
                    } else {
                        bounce.push(data.to_vec());
                        bounce.last().map_or(0, |b| b.as_ptr() as u64)
                    };
                    Request { dev: device.0, offset: offset.get(), len: data.len() as u64, buf, ..request(Op::Write) }
                }
                Step::Copy { from, from_offset, to, to_offset, len, zeroes } => Request {
                    dev: from.0,
                    offset: from_offset.get(),
                    len,
                    dev2: to.0,
                    offset2: to_offset.get(),
                    flags: match zeroes {
                        Zeroes::Copied => 0,
                        Zeroes::Skipped(_) => FLAG_SKIP_ZERO,
                        Zeroes::Unmapped(_) => FLAG_SKIP_ZERO | FLAG_UNMAP,
                    },
                    arg: zeroes.unit().unwrap_or(0),
                    ..request(Op::Copy)
                },
                Step::Zero { device, offset, len, unmap } => {
                    let flags = if unmap { FLAG_UNMAP } else { FLAG_ALLOCATE };
                    Request { dev: device.0, offset: offset.get(), len, flags, ..request(Op::WriteZeroes) }
                }
                Step::Discard { device, offset, len } => {
                    Request { dev: device.0, offset: offset.get(), len, ..request(Op::Discard) }
                }
                Step::Allocate { device, offset, len, full } => Request {
                    dev: device.0,
                    offset: offset.get(),
                    len,
                    flags: if full { FLAG_FULL } else { 0 },
                    ..request(Op::Allocate)
                },
                Step::SetLength { device, len } => Request { dev: device.0, len, ..request(Op::SetLength) },
                Step::Barrier { device } => Request { dev: device.0, ..request(Op::Flush) },
            };
            let alone = matches!(step, Step::Barrier { .. } | Step::SetLength { .. });
            if (alone && !batch.is_empty()) || batch.len() == BATCH_MAX {
                self.run_steps(&mut batch, &mut numbers)?;
            }
            batch.push(next);
            numbers.push(number);
            if alone {
                self.run_steps(&mut batch, &mut numbers)?;
            }
        }
        self.run_steps(&mut batch, &mut numbers)
    }
}

impl machine::Opener for RingMachine {
    fn open_named(&self, from: DeviceId, name: &[u8], role: Role, write: bool) -> Result<DeviceId> {
        self.named.open((from, name, role, write), || {
            let reply = self.reachable(name, |name| {
                self.call(Request {
                    dev: from.0,
                    buf: name.as_ptr() as u64,
                    buf_len: name.len() as u64,
                    arg: role as u32,
                    flags: if write { FLAG_WRITE } else { 0 },
                    ..request(Op::OpenNamed)
                })
            })?;
            Ok(DeviceId(reply.value as u32))
        })
    }
}

impl machine::Workers for RingMachine {
    fn workers(&self) -> usize {
        self.taking_part
    }

    fn broadcast(&self, body: &(dyn Fn(usize) + Sync)) {
        let others = self.taking_part - 1;
        if others == 0 {
            return body(0);
        }
        self.workers.publish(body);
        let wakes: Vec<Request> = (1..=others).map(|w| Request { arg: w as u32, ..request(Op::Wake) }).collect();
        self.client().batch(&wakes, |_, _| {});
        body(0);
        // What there is to do is done, or others are at the rest: a short command waits for nobody who has not begun.
        self.workers.withdraw();
        let mut spins = 0;
        while !self.workers.all_done() {
            self.relax(&mut spins);
        }
    }

    fn relax(&self, spins: &mut u32) {
        const SPINS: u32 = 2000;
        const NAP_MICROSECONDS: u64 = 50;
        // Where there are more workers than processors, those that wait must not take them from those that work.
        const LONGER_AFTER: u32 = 4;
        const DOUBLED_MAX: u32 = 5;
        *spins += 1;
        match spins.checked_sub(SPINS) {
            None => core::hint::spin_loop(),
            Some(naps) => {
                let len = NAP_MICROSECONDS << (naps / LONGER_AFTER).min(DOUBLED_MAX);
                self.client().one(Request { len, ..request(Op::Wait) });
            }
        }
    }
}

impl machine::Report for RingMachine {
    fn progress(&self, done: u64, total: u64) {
        let step = (total / PROGRESS_PARTS).max(1);
        let last = self.reported.load(Ordering::Relaxed);
        if done >= total || done >= last.saturating_add(step) {
            self.reported.store(done, Ordering::Relaxed);
            self.client().one(Request { offset: done, len: total, ..request(Op::Progress) });
        }
    }

    fn say(&self, text: &str) -> Result<()> {
        self.tell(LOG_LINES, text.as_bytes())
    }

    fn stream(&self, records: &[u8]) -> Result<()> {
        self.tell(LOG_RECORDS, records)
    }

    fn emit(&self, key: &str, value: &Value) -> Result<()> {
        let mut bytes = Vec::new();
        record::encode(&mut bytes, key, value);
        let emit = Request { buf: bytes.as_ptr() as u64, buf_len: bytes.len() as u64, ..request(Op::Emit) };
        self.call(emit).map(|_| ())
    }
}

impl machine::Environment for RingMachine {
    fn now_seconds(&self) -> u64 {
        self.now
    }

    fn clock(&self) -> Result<u64> {
        self.call(request(Op::Clock)).map(|reply| reply.value)
    }

    fn random(&self, bytes: &mut [u8]) {
        self.random.lock().fill_bytes(bytes);
    }
}

impl Machine for RingMachine {
    fn source(&self) -> &dyn Source {
        self
    }

    fn create_beside(&self, target: DeviceId, kind: Beside, number: u64) -> Result<DeviceId> {
        let wanted = Request { dev: target.0, arg: kind as u32, len: number, ..request(Op::CreateBeside) };
        failure::check_target(self.client().one(wanted)).map(|reply| DeviceId(reply.value as u32))
    }

    fn seal(&self) -> Result<()> {
        self.call(request(Op::Seal)).map(|_| ())
    }
}
