//! A [`Machine`] in memory: operations and formats are tested in-process, without a sandbox, at full speed.
#![forbid(unsafe_code)]

mod disk;
mod fault;
mod journal;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use instar_image::Zeroes;
use instar_image::machine::{Environment, Opener, Parallel, Report, Workers};
use instar_image::named::NamedFiles;
use instar_image::{
    Beside, DeviceId, Error, FileOffset, Kind, Machine as Api, RangePair, Read, Result, Role, Run, Scope, Sink, Source,
    Stat, Step, Value,
};

use fault::{Event, Failure, Faults};

pub use disk::Disk;
pub use fault::{Fault, Injection};
pub use journal::{Entry, Journal};

const ENOENT: u32 = 2;
const ENOSPC: u32 = 28;
const EBADF: u32 = 9;
const EINVAL: u32 = 22;

#[derive(Debug)]
struct Device {
    disk: Disk,
    writable: bool,
    fresh: bool,
}

/// Devices in memory, and real threads as workers.
#[derive(Debug, Default)]
pub struct Machine {
    devices: Mutex<Vec<Device>>,
    named: Mutex<HashMap<Vec<u8>, DeviceId>>,
    opened: NamedFiles,
    emitted: Mutex<Vec<(String, Value)>>,
    said: Mutex<String>,
    workers: usize,
    ids: AtomicU64,
    /// When the clock was first looked at.
    started: OnceLock<Instant>,
    stock: AtomicBool,
    sealed: AtomicBool,
    secrets: Vec<(String, Vec<u8>)>,
    room: Option<u64>,
    journal: Mutex<Option<Journal>>,
    faults: Mutex<Faults>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No file is longer than a signed number tells.
fn in_a_file(offset: FileOffset, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= FileOffset::END_MAX => Ok(()),
        _ => Err(Error::new(Kind::Io(EINVAL), "no file is that long")),
    }
}

impl Machine {
    /// No devices, two workers.
    #[must_use]
    pub fn new() -> Self {
        Self { workers: 2, ..Self::default() }
    }

    /// The same with another number of workers.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// The same with one more secret.
    #[must_use]
    pub fn with_secret(mut self, id: &str, data: impl AsRef<[u8]>) -> Self {
        self.secrets.push((id.to_string(), data.as_ref().to_vec()));
        self
    }

    /// The same; a device that holds so many bytes, or more, takes no change any more.
    #[must_use]
    pub fn with_room(mut self, room: u64) -> Self {
        self.room = Some(room);
        self
    }

    fn push(&self, device: Device) -> DeviceId {
        let mut devices = lock(&self.devices);
        devices.push(device);
        DeviceId(u32::try_from(devices.len() - 1).expect("a test has few devices"))
    }

    /// Whether an operation has said that it wants no more files: none is opened any more then.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Relaxed)
    }

    /// From now on it was called by the stock tool's name.
    pub fn set_stock(&self) {
        self.stock.store(true, Ordering::Relaxed);
    }

    /// A read-only device.
    pub fn add(&self, content: impl AsRef<[u8]>) -> DeviceId {
        self.push(Device { disk: Disk::from_bytes(content.as_ref()), writable: false, fresh: false })
    }

    /// A read-only device made elsewhere (a sparse one, say).
    pub fn add_disk(&self, disk: Disk) -> DeviceId {
        self.push(Device { disk, writable: false, fresh: false })
    }

    /// A writable device made elsewhere, which holds something.
    pub fn add_writable_disk(&self, disk: Disk) -> DeviceId {
        self.push(Device { disk, writable: true, fresh: false })
    }

    /// A writable device. Fresh (made empty for this run) if `content` is empty.
    pub fn add_writable(&self, content: impl AsRef<[u8]>) -> DeviceId {
        let content = content.as_ref();
        self.push(Device { disk: Disk::from_bytes(content), writable: true, fresh: content.is_empty() })
    }

    /// Lets images name a device.
    pub fn name(&self, name: impl AsRef<[u8]>, device: DeviceId) {
        lock(&self.named).insert(name.as_ref().to_vec(), device);
    }

    /// All devices that have a name.
    #[must_use]
    pub fn named(&self) -> Vec<(Vec<u8>, DeviceId)> {
        lock(&self.named).iter().map(|(name, device)| (name.clone(), *device)).collect()
    }

    /// A copy of a device's content.
    #[must_use]
    pub fn disk(&self, device: DeviceId) -> Disk {
        lock(&self.devices)[device.0 as usize].disk.clone()
    }

    /// What was said so far.
    #[must_use]
    pub fn said(&self) -> String {
        lock(&self.said).clone()
    }

    /// What was emitted so far.
    #[must_use]
    pub fn emitted(&self) -> Vec<(String, Value)> {
        lock(&self.emitted).clone()
    }

    /// From now on every change is logged.
    pub fn record(&self) {
        let before = lock(&self.devices).iter().map(|d| d.disk.clone()).collect();
        *lock(&self.journal) = Some(Journal { before, entries: Vec::new() });
    }

    /// What was changed since [`Machine::record`].
    #[must_use]
    pub fn journal(&self) -> Journal {
        lock(&self.journal).clone().unwrap_or_default()
    }

    /// From now on that goes wrong.
    pub fn inject(&self, injection: Injection) {
        lock(&self.faults).inject(injection);
    }

    /// How many events such a fault could have hit so far.
    #[must_use]
    pub fn could_hit(&self, fault: Fault) -> u64 {
        lock(&self.faults).seen(fault)
    }

    /// How many events a fault has hit.
    #[must_use]
    pub fn hits(&self) -> u64 {
        lock(&self.faults).hits()
    }

    fn log_step(&self, step: &Step<'_>) {
        if let Some(journal) = lock(&self.journal).as_mut() {
            journal.add(step);
        }
    }

    /// What is discarded is lost: here all of it is zeroes at once.
    fn as_worst<'s>(&self, step: Step<'s>) -> Step<'s> {
        let Step::Discard { device, offset, len } = step else { return step };
        let held = FileOffset::new(self.with(device, |d| Ok(d.disk.len())).unwrap_or(0));
        Step::Zero { device, offset, len: len.min(held.saturating_since(offset)), unmap: true }
    }

    fn with<T>(&self, device: DeviceId, act: impl FnOnce(&mut Device) -> Result<T>) -> Result<T> {
        match lock(&self.devices).get_mut(device.0 as usize) {
            Some(device) => act(device),
            None => Err(Error::new(Kind::Io(EBADF), "no such device")),
        }
    }

    fn change(&self, device: DeviceId, act: impl FnOnce(&mut Disk)) -> Result<()> {
        self.with(device, |d| {
            if !d.writable {
                return Err(Error::new(Kind::Io(EBADF), "the device is read-only"));
            }
            if self.room.is_some_and(|room| d.disk.allocated() >= room) {
                return Err(Error::new(Kind::Io(ENOSPC), "No space left on device"));
            }
            act(&mut d.disk);
            Ok(())
        })
    }

    /// Whether a change of that range needs blocks that the device does not have.
    fn grows(&self, device: DeviceId, offset: FileOffset, len: u64) -> bool {
        self.with(device, |d| {
            let run = d.disk.run(offset, len);
            Ok(len > 0 && !(run.data && run.len >= len))
        })
        .unwrap_or_default()
    }

    /// What becomes of a step; `None`: it goes well.
    fn meet(&self, step: &Step<'_>) -> Option<Failure> {
        let event = match *step {
            // The host gives back what it can, and says nothing of the rest.
            Step::Discard { .. } => return None,
            Step::Barrier { .. } => Event::Flush,
            Step::Write { device, offset, data } => {
                Event::Change { grows: self.grows(device, offset, data.len() as u64) }
            }
            Step::Copy { to, to_offset, len, .. } => Event::Change { grows: self.grows(to, to_offset, len) },
            Step::Allocate { .. } => Event::Change { grows: true },
            Step::Zero { .. } | Step::SetLength { .. } => Event::Change { grows: false },
        };
        lock(&self.faults).meet(event)
    }

    fn carry_out(&self, step: &Step<'_>) -> Result<()> {
        let Some(failure) = self.meet(step) else { return self.do_all(&self.as_worst(*step)) };
        let (part, len) = match *step {
            Step::Write { device, offset, data } => {
                let len = failure.part(data.len() as u64);
                (Some(Step::Write { device, offset, data: &data[..len as usize] }), len)
            }
            Step::Zero { device, offset, len, unmap } => {
                let len = failure.part(len);
                (Some(Step::Zero { device, offset, len, unmap }), len)
            }
            Step::Copy { from, from_offset, to, to_offset, len, zeroes } => {
                let len = failure.part(len);
                (Some(Step::Copy { from, from_offset, to, to_offset, len, zeroes }), len)
            }
            Step::Barrier { device } => {
                if let Some(journal) = lock(&self.journal).as_mut() {
                    journal.lose(device);
                }
                (None, 0)
            }
            Step::Discard { .. } | Step::Allocate { .. } | Step::SetLength { .. } => (None, 0),
        };
        if let Some(part) = part.filter(|_| len > 0) {
            self.do_all(&part)?;
        }
        let scope = matches!(step, Step::Copy { .. }).then_some(Scope::Target(0, 0));
        Err(Error { scope, ..failure.error })
    }

    fn do_all(&self, step: &Step<'_>) -> Result<()> {
        let (offset, len) = match *step {
            Step::Write { offset, data, .. } => (offset, data.len() as u64),
            Step::Copy { to_offset, len, .. } => (to_offset, len),
            Step::Zero { offset, len, .. } | Step::Allocate { offset, len, .. } => (offset, len),
            Step::SetLength { len, .. } => (FileOffset::ZERO, len),
            Step::Discard { .. } | Step::Barrier { .. } => (FileOffset::ZERO, 0),
        };
        in_a_file(offset, len)?;
        self.log_step(step);
        match *step {
            Step::Write { device, offset, data } => self.change(device, |d| d.write(offset, data)),
            Step::Copy { from, from_offset, to, to_offset, len, zeroes } => {
                self.copy((from, from_offset), (to, to_offset), len, zeroes)
            }
            Step::Zero { device, offset, len, .. } => self.change(device, |d| d.zero(offset, len)),
            Step::Allocate { device, offset, len, .. } => {
                self.change(device, |d| d.set_len(d.len().max((offset + len).get())))
            }
            Step::SetLength { device, len } => self.change(device, |d| d.set_len(len)),
            Step::Discard { .. } | Step::Barrier { .. } => Ok(()),
        }
    }

    fn copy(&self, from: (DeviceId, FileOffset), to: (DeviceId, FileOffset), len: u64, zeroes: Zeroes) -> Result<()> {
        const CHUNK: u64 = 1 << 20;
        let unit = zeroes.unit().map_or(CHUNK as usize, |unit| unit as usize);
        let unmap = |offset: FileOffset, len: u64| {
            self.log_step(&Step::Zero { device: to.0, offset, len, unmap: true });
            self.change(to.0, |disk| disk.zero(offset, len))
        };
        let unmaps = matches!(zeroes, Zeroes::Unmapped(_));
        let mut done = 0;
        while done < len {
            let run = self.with(from.0, |d| Ok(d.disk.run(from.1 + done, len - done)))?;
            if zeroes.unit().is_some() && !run.data {
                if unmaps {
                    unmap(to.1 + done, run.len)?;
                }
                done += run.len;
                continue;
            }
            let mut bytes = vec![0; CHUNK.min(len - done) as usize];
            let read = self.read(from.0, from.1 + done, &mut bytes);
            read.map_err(|error| Error { scope: Some(Scope::Source(0, done)), ..error })?;
            // Units of zeroes that follow one another are one range, as at the host.
            let is_zero = |part: &&[u8]| zeroes.unit().is_some() && instar_image::reader::is_zero(part);
            let parts: Vec<&[u8]> = bytes.chunks(unit).collect();
            let mut offset = to.1 + done;
            for run in parts.chunk_by(|a, b| is_zero(a) && is_zero(b)) {
                let len = run.iter().map(|part| part.len() as u64).sum();
                if !run.iter().all(is_zero) {
                    let part = run.first().copied().unwrap_or_default();
                    self.log_step(&Step::Write { device: to.0, offset, data: part });
                    self.change(to.0, |disk| disk.write(offset, part))?;
                } else if unmaps {
                    unmap(offset, len)?;
                }
                offset += len;
            }
            done += bytes.len() as u64;
        }
        Ok(())
    }
}

impl Parallel for Machine {}

impl Source for Machine {
    fn secret(&self, id: &str) -> Option<&[u8]> {
        self.secrets.iter().find(|(name, _)| name == id).map(|(_, data)| data.as_slice())
    }

    fn is_stock(&self) -> bool {
        self.stock.load(Ordering::Relaxed)
    }

    fn stat(&self, device: DeviceId) -> Result<Stat> {
        self.with(device, |d| {
            Ok(Stat {
                len: d.disk.len(),
                allocated: d.disk.allocated(),
                block_device: false,
                writable: d.writable,
                fresh: d.fresh,
                contended: false,
                slow: false,
                shares: false,
                same_file: device,
                extent_size_hint: 0,
                alignment: 1,
            })
        })
    }

    fn read_many(&self, reads: &mut [Read<'_>]) -> Result<()> {
        for read in reads {
            in_a_file(read.offset, read.buf.len() as u64)?;
            if let Some(failure) = lock(&self.faults).meet(Event::Read) {
                return Err(failure.error);
            }
            self.with(read.device, |d| {
                d.disk.read(read.offset, read.buf);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn runs(&self, device: DeviceId, offset: FileOffset, len: u64, runs: &mut Vec<Run>) -> Result<FileOffset> {
        const RUNS_MAX: usize = 64;
        self.with(device, |d| {
            let end = offset.saturating_add(len).min(FileOffset::new(d.disk.len()));
            let mut at = offset;
            for _ in 0..RUNS_MAX {
                if at >= end {
                    break;
                }
                let run = d.disk.run(at, end - at);
                at += run.len;
                runs.push(run);
            }
            Ok(at)
        })
    }

    fn equal_prefixes(&self, pairs: &[RangePair], equal: &mut [u64]) -> Result<()> {
        for (pair, equal) in pairs.iter().zip(equal) {
            let len = usize::try_from(pair.len).expect("a test compares little");
            let (mut left, mut right) = (vec![0; len], vec![0; len]);
            self.read(pair.a.0, pair.a.1, &mut left)?;
            self.read(pair.b.0, pair.b.1, &mut right)?;
            *equal = left.iter().zip(&right).take_while(|(l, r)| l == r).count() as u64;
        }
        Ok(())
    }
}

impl Sink for Machine {
    fn submit(&self, steps: &[Step<'_>]) -> Result<()> {
        // The host gets these by themselves, and is not told of what follows one that failed.
        let is_alone = |step: &Step<'_>| matches!(step, Step::Barrier { .. } | Step::SetLength { .. });
        let mut failed = None;
        for (number, step) in steps.iter().enumerate() {
            if failed.is_some() && is_alone(step) {
                break;
            }
            // What no barrier divides from the failed step may have happened all the same.
            if failed.is_some() && !lock(&self.faults).dice.coin() {
                continue;
            }
            if let Err(error) = self.carry_out(step) {
                failed.get_or_insert(error.of_steps_behind(number));
                if is_alone(step) {
                    break;
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Opener for Machine {
    fn open_named(&self, from: DeviceId, name: &[u8], role: Role, write: bool) -> Result<DeviceId> {
        self.opened.open((from, name, role, write), || {
            if self.is_sealed() {
                return Err(Error::new(Kind::Refused, "the chain is sealed"));
            }
            let found = lock(&self.named).get(name).copied();
            found.ok_or_else(|| Error::new(Kind::Io(ENOENT), "No such file or directory"))
        })
    }
}

impl Workers for Machine {
    fn workers(&self) -> usize {
        self.workers.max(1)
    }

    fn broadcast(&self, body: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            for worker in 1..Workers::workers(self) {
                scope.spawn(move || body(worker));
            }
            body(0);
        });
    }

    fn relax(&self, spins: &mut u32) {
        *spins += 1;
        std::thread::yield_now();
    }
}

impl Report for Machine {
    fn progress(&self, _done: u64, _total: u64) {}

    fn say(&self, text: &str) -> Result<()> {
        lock(&self.said).push_str(text);
        Ok(())
    }

    fn stream(&self, records: &[u8]) -> Result<()> {
        self.emit("stream", &Value::from(records))
    }

    fn emit(&self, key: &str, value: &Value) -> Result<()> {
        lock(&self.emitted).push((key.to_string(), value.clone()));
        Ok(())
    }
}

impl Environment for Machine {
    fn now_seconds(&self) -> u64 {
        1_000_000_000
    }

    fn clock(&self) -> Result<u64> {
        Ok(u64::try_from(self.started.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The same at every run.
    fn random(&self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(16) {
            let n = self.ids.fetch_add(1, Ordering::Relaxed);
            let mut block = [0x5a; 16];
            block[..8].copy_from_slice(&n.to_le_bytes());
            part.copy_from_slice(&block[..part.len()]);
        }
    }
}

impl Api for Machine {
    fn source(&self) -> &dyn Source {
        self
    }

    fn create_beside(&self, _target: DeviceId, kind: Beside, number: u64) -> Result<DeviceId> {
        let device = self.add_writable([]);
        self.name(kind.name(b"disk", number), device);
        Ok(device)
    }

    fn seal(&self) -> Result<()> {
        self.sealed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_tebibyte_costs_nothing() {
        let machine = Machine::new();
        let device = machine.add_writable([]);
        machine
            .submit(&[
                Step::SetLength { device, len: 1 << 40 },
                Step::Write { device, offset: FileOffset::new((1 << 40) - 3), data: b"end" },
            ])
            .expect("the steps are valid");
        assert_eq!(machine.stat(device).expect("it exists").allocated, 4096);
        let mut runs = Vec::new();
        let reached = machine.runs(device, FileOffset::ZERO, 1 << 40, &mut runs).expect("it exists");
        assert_eq!((reached.get(), runs.len(), runs[0].data, runs[1].len), (1 << 40, 2, false, 4096));
    }

    #[test]
    fn zeroing_keeps_what_lies_around() {
        let mut disk = Disk::from_bytes(&[7; 10_000]);
        disk.zero(FileOffset::new(100), 9000);
        let bytes = disk.to_bytes();
        assert!(bytes[..100].iter().chain(&bytes[9100..]).all(|b| *b == 7));
        assert!(bytes[100..9100].iter().all(|b| *b == 0));
    }

    #[test]
    fn copy_skips_zeroes_in_units() {
        let machine = Machine::new();
        let mut content = vec![1u8; 3 * 4096];
        content[4096..8192].fill(0);
        let (from, to) = (machine.add(&content), machine.add_writable([]));
        let copy = Step::Copy {
            from,
            from_offset: FileOffset::ZERO,
            to,
            to_offset: FileOffset::ZERO,
            len: content.len() as u64,
            zeroes: Zeroes::Skipped(4096),
        };
        machine.submit(&[Step::SetLength { device: to, len: content.len() as u64 }, copy]).expect("valid");
        assert_eq!(machine.disk(to).to_bytes(), content);
        assert_eq!(machine.disk(to).allocated(), 2 * 4096);
    }
}
