//! Into targets that allocate: every worker reads, looks for zeroes and compresses by itself; places are given in the order
//! of the jobs, so that the result does not depend on the number of workers; writing is everybody's own again.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::copy::fill::parts_of;
use instar_image::chain::Chain;
use instar_image::error::Stage;
use instar_image::reader::is_zero;
use instar_image::sealed::{self, Placed};
use instar_image::write::{Compressor, Piece, Target, Writer};
use instar_image::{DeviceId, Error, FileOffset, Machine, Place, Result, until};

use super::fill::{Area, Filler};
use super::plan::{Job, Part, Planner};
use super::progress::Progress;
use super::{Disks, Selection, Settings};

/// Blocks of this length, on multiples of it, are what file systems share.
const BLOCK: u64 = 4096;

/// What a job shares with the others.
struct Shared<'a> {
    machine: &'a dyn Machine,
    writer: &'a dyn Writer,
    planner: &'a Planner<'a>,
    /// The ticket whose turn it is.
    turn: AtomicU64,
    unit: usize,
    /// Bytes in which zeroes are looked for: a unit, or what `-S` asks for.
    zero_unit: usize,
    /// Zeroes need not be placed.
    zeroed: bool,
    /// Zeroes are looked for.
    sparse: bool,
    /// Plain bytes are not looked at.
    as_is: bool,
    /// What is plain and whole blocks may be shared with its source.
    shares: bool,
    /// What reads the same through this chain needs no place.
    against: Option<&'a Chain<'a>>,
    /// Jobs that have their places and are being written.
    writing: AtomicU64,
}

/// Runs all jobs on all workers.
pub fn run(
    machine: &dyn Machine,
    writer: &dyn Writer,
    planner: &Planner<'_>,
    settings: Settings,
    progress: &Progress<'_>,
) -> Result<()> {
    let Target::Allocated { unit, zero_unit, zeroed } = writer.target() else {
        return Err(Error::corrupt("a target with an order"));
    };
    // What is compressed is compressed by units: none that is zero is stored.
    let runs = if settings.compress { 0 } else { settings.sparse.next_power_of_two().min(1 << 21) };
    let shared = Shared {
        machine,
        writer,
        planner,
        turn: AtomicU64::new(0),
        unit: unit as usize,
        zero_unit: zero_unit.max(runs) as usize,
        zeroed: zeroed || settings.zeroed,
        sparse: settings.sparse != 0,
        // What the host copies is not encrypted on the way.
        as_is: settings.as_is && writer.encrypter().is_none(),
        shares: !settings.compress
            && !settings.reserved
            && writer.encrypter().is_none()
            && planner.losses().is_none()
            && planner.disks().devices().any(|device| machine.stat(device).is_ok_and(|stat| stat.shares))
            && unit.is_multiple_of(BLOCK),
        against: match planner.selection() {
            Selection::Differing(chain) => Some(chain),
            Selection::All | Selection::Own | Selection::Layers(_) => None,
        },
        writing: AtomicU64::new(0),
    };
    machine.broadcast(&|_| {
        let mut worker = Worker {
            shared: &shared,
            filler: Filler::new(planner.disks(), machine.source(), planner.losses()),
            compressor: if settings.compress { writer.compressor() } else { None },
            other: shared.against.map(|chain| Filler::new(Disks::of(chain), machine.source(), None)),
            buf: Vec::new(),
            seen: Vec::new(),
            fates: Vec::new(),
            compressed: Vec::new(),
        };
        loop {
            let jobs = planner.next(machine);
            let (Some(first), Some(last)) = (jobs.first(), jobs.last()) else { break };
            match worker.work(&jobs, first, last) {
                Ok(()) => progress.add(jobs.iter().map(|job| job.advance).sum()),
                Err(error) => planner.fail(first.at, error),
            }
        }
    });
    planner.outcome()
}

/// What becomes of a run of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The target's backing file has it, or nothing needs to be there.
    Leave,
    Zero,
    Data,
    /// The host copies it from there.
    Copy(DeviceId, FileOffset),
}

impl Fate {
    /// What `units` units further is part of the same piece.
    fn further(self, units: usize, unit: usize) -> Self {
        match self {
            Self::Copy(device, offset) => Self::Copy(device, offset + (units * unit) as u64),
            other => other,
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared<'a>,
    filler: Filler<'a>,
    compressor: Option<Box<dyn Compressor + 'a>>,
    /// Reads the chain that the result is compared with.
    other: Option<Filler<'a>>,
    buf: Vec<u8>,
    /// The same bytes through that chain.
    seen: Vec<u8>,
    /// What becomes of each unit of the jobs at hand.
    fates: Vec<Fate>,
    /// One compressed unit each; the buffers are used again.
    compressed: Vec<Vec<u8>>,
}

/// A job, and which units of the worker's buffer are its.
struct Task<'j> {
    job: &'j Job,
    first: usize,
    count: usize,
}

impl Task<'_> {
    const fn units(&self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

/// The parts of `buf` that are the tasks', which follow one another from its beginning on.
fn split<'b>(mut buf: &'b mut [u8], tasks: &[Task<'_>], unit: usize) -> Vec<&'b mut [u8]> {
    let mut areas = Vec::with_capacity(tasks.len());
    for task in tasks {
        let (here, behind) = buf.split_at_mut((task.count * unit).min(buf.len()));
        areas.push(here);
        buf = behind;
    }
    areas
}

impl Worker<'_> {
    /// `first` and `last` of the jobs, which follow one another.
    fn work(&mut self, jobs: &[Job], first: &Job, last: &Job) -> Result<()> {
        let shared = self.shared;
        let unit = shared.unit;
        let mut units = 0;
        let tasks: Vec<Task<'_>> = jobs
            .iter()
            .map(|job| {
                let count = (job.len as usize).div_ceil(unit);
                units += count;
                Task { job, first: units - count, count }
            })
            .collect();
        let prepared = self.prepare(&tasks, units * unit);
        // The turn must come and go even after an error: the others wait for it.
        until(shared.machine, || {
            let has_come = shared.turn.load(Ordering::Acquire) == first.ticket;
            (has_come || shared.planner.has_failed()).then_some(())
        });
        if let Err(error) = prepared {
            shared.planner.fail(first.at, error);
            shared.turn.store(last.ticket + 1, Ordering::Release);
            return Ok(());
        }
        let mut steps = Vec::new();
        let mut placed = shared.settle_if_full();
        for task in &tasks {
            placed = placed.and_then(|()| self.place(task, &mut steps));
        }
        shared.writing.fetch_add(1, Ordering::AcqRel);
        shared.turn.store(last.ticket + 1, Ordering::Release);
        let written = placed.and_then(|()| sealed::submit(shared.machine, steps, shared.writer.encrypter()));
        shared.writing.fetch_sub(1, Ordering::AcqRel);
        written.map_err(|e| e.during(Stage::Write(first.at)))
    }

    /// Reads and compresses; `len`: bytes of all tasks.
    fn prepare(&mut self, tasks: &[Task<'_>], len: usize) -> Result<()> {
        let (unit, planner) = (self.shared.unit, self.shared.planner);
        if self.buf.len() < len {
            // Not both at once.
            self.buf = Vec::new();
            self.buf = vec![0; len];
        }
        for (task, area) in tasks.iter().zip(split(&mut self.buf, tasks, unit)) {
            area.get_mut(task.job.len as usize..).unwrap_or_default().fill(0);
        }
        let parts = |task: &Task<'_>| match planner.selection() {
            Selection::Own | Selection::Layers(_) => planner.resolve(&task.job.parts),
            Selection::All | Selection::Differing(_) => Ok(task.job.parts.clone()),
        };
        let parts: Vec<Vec<Part>> = tasks.iter().map(parts).collect::<Result<_>>()?;
        self.fates.clear();
        if self.shared.as_is {
            return self.prepare_as_is(tasks, &parts);
        }
        fill(&mut self.filler, tasks, &parts, &mut self.buf, unit)?;
        for task in tasks {
            let range = task.units();
            let bytes = self.buf.get(range.start * unit..range.end * unit).unwrap_or_default();
            self.fates.append(&mut self.shared.fates(task.job, bytes));
        }
        self.leave_what_is_the_same(tasks, len)?;
        self.share_what_can_be(tasks, &parts)?;
        let fates = &self.fates;
        let Some(compressor) = self.compressor.as_mut() else { return Ok(()) };
        self.compressed.resize_with(self.compressed.len().max(fates.len()), Vec::new);
        for ((fate, bytes), out) in fates.iter().zip(self.buf.chunks(unit)).zip(&mut self.compressed) {
            let smaller = *fate == Fate::Data && compressor.compress(bytes, out)?;
            if !smaller {
                out.clear();
            }
        }
        Ok(())
    }

    /// Units that were only looked at are not written, where the host can make the target share their blocks.
    fn share_what_can_be(&mut self, tasks: &[Task<'_>], parts: &[Vec<Part>]) -> Result<()> {
        if !self.shared.shares {
            return Ok(());
        }
        // Asked each time: an attempt may have shown that it cannot be.
        let mut known: Vec<(DeviceId, bool)> = Vec::new();
        for (task, parts) in tasks.iter().zip(parts) {
            let places = self.shared.fates_as_is(task.job, parts);
            let fates = self.fates.get_mut(task.units()).unwrap_or_default();
            // The last unit may be longer than the disk: zeroes follow in it.
            let whole = task.job.len as usize / self.shared.unit;
            for (fate, place) in fates.iter_mut().zip(places).take(whole) {
                let Fate::Copy(device, offset) = place else { continue };
                if *fate != Fate::Data || !offset.is_multiple_of(BLOCK) {
                    continue;
                }
                let shares = match known.iter().find(|(same, _)| *same == device) {
                    Some((_, shares)) => *shares,
                    None => {
                        let shares = self.shared.machine.stat(device)?.shares;
                        known.push((device, shares));
                        shares
                    }
                };
                if shares {
                    *fate = place;
                }
            }
        }
        Ok(())
    }

    /// Only units that are not one plain extent, or one run of zeroes, are read.
    fn prepare_as_is(&mut self, tasks: &[Task<'_>], parts: &[Vec<Part>]) -> Result<()> {
        let unit = self.shared.unit;
        let mut read = Vec::with_capacity(tasks.len());
        for (task, parts) in tasks.iter().zip(parts) {
            let mut fates = self.shared.fates_as_is(task.job, parts);
            let is_read = |part: &&Part| {
                let first = (part.at - task.job.at) as usize / unit;
                let last = (part.at - task.job.at + part.extent.len - 1) as usize / unit;
                fates.get(first..=last).unwrap_or_default().contains(&Fate::Data)
            };
            read.push(parts.iter().filter(is_read).copied().collect::<Vec<Part>>());
            self.fates.append(&mut fates);
        }
        fill(&mut self.filler, tasks, &read, &mut self.buf, unit)
    }

    /// Units that read the same through the other chain are left to it.
    fn leave_what_is_the_same(&mut self, tasks: &[Task<'_>], len: usize) -> Result<()> {
        let (Some(other), Some(chain)) = (&mut self.other, self.shared.against) else { return Ok(()) };
        let unit = self.shared.unit;
        if self.seen.len() < len {
            self.seen = vec![0; len];
        }
        let mut all = Vec::with_capacity(tasks.len());
        for (task, area) in tasks.iter().zip(split(&mut self.seen, tasks, unit)) {
            let job = task.job;
            let shown = chain.virtual_size().saturating_sub(job.at).min(job.len);
            area.get_mut(shown as usize..).unwrap_or_default().fill(0);
            all.push(parts_of(chain, 0, job.at, shown)?);
        }
        fill(other, tasks, &all, &mut self.seen, unit)?;
        for (fate, (ours, theirs)) in self.fates.iter_mut().zip(self.buf.chunks(unit).zip(self.seen.chunks(unit))) {
            if ours == theirs {
                *fate = Fate::Leave;
            }
        }
        Ok(())
    }

    /// Has every run placed, in its turn.
    fn place<'p>(&'p self, task: &Task<'_>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let Shared { unit, writer, .. } = *self.shared;
        let (job, Range { start: first, end }) = (task.job, task.units());
        let fates = self.fates.get(..end).unwrap_or_default();
        let is_compressed =
            |i: usize| self.compressor.is_some() && self.compressed.get(i).is_some_and(|bytes| !bytes.is_empty());
        let mut i = first;
        while let Some(fate) = fates.get(i) {
            let inside = ((i - first) * unit) as u64;
            let at = job.at + inside;
            if *fate == Fate::Data && is_compressed(i) {
                writer.place(at, Piece::Compressed(self.compressed.get(i).map_or(&[][..], Vec::as_slice)), steps)?;
                i += 1;
                continue;
            }
            let same =
                fates.iter().enumerate().skip(i).take_while(|(k, f)| {
                    **f == fate.further(k - i, unit) && !(*fate == Fate::Data && is_compressed(*k))
                });
            let count = same.count();
            let len = (count * unit) as u64;
            match fate {
                Fate::Leave => {}
                Fate::Zero => writer.place(at, Piece::Zero(len), steps)?,
                Fate::Copy(device, offset) => {
                    writer.place(at, Piece::Copy(*device, *offset, len.min(job.len - inside)), steps)?;
                }
                Fate::Data => {
                    let bytes = self.buf.get(i * unit..(i + count) * unit).unwrap_or_default();
                    writer.place(at, Piece::Data(bytes), steps)?;
                }
            }
            i += count;
        }
        Ok(())
    }
}

/// Fills the tasks' parts of `buf`.
fn fill(filler: &mut Filler<'_>, tasks: &[Task<'_>], parts: &[Vec<Part>], buf: &mut [u8], unit: usize) -> Result<()> {
    let areas = tasks.iter().zip(parts).zip(split(buf, tasks, unit));
    let mut areas: Vec<Area<'_>> = areas.map(|((task, parts), buf)| Area { parts, base: task.job.at, buf }).collect();
    filler.fill_all(&mut areas)
}

impl Shared<'_> {
    /// Called by the worker whose turn it is: nobody else places anything, and what is being written is waited for.
    fn settle_if_full(&self) -> Result<()> {
        if !self.writer.is_full() {
            return Ok(());
        }
        until(self.machine, || (self.writing.load(Ordering::Acquire) == 0).then_some(()));
        // After a failed write nothing may be made to refer to it.
        if self.planner.has_failed() { Ok(()) } else { self.writer.settle() }
    }

    /// What becomes of each unit of the job.
    fn fates(&self, job: &Job, buf: &[u8]) -> Vec<Fate> {
        let units = buf.len() / self.unit;
        let mut fates = vec![Fate::Data; units];
        if self.sparse {
            let group = (self.zero_unit / self.unit).max(1);
            // Groups are the disk's own, so that a job's beginning makes no difference.
            let first = (job.at as usize / self.unit) % group;
            let mut from = 0;
            while from < units {
                let end = (from + group - if from == 0 { first } else { 0 }).min(units);
                let zero = buf.get(from * self.unit..end * self.unit).is_some_and(is_zero);
                if zero {
                    let fate = if self.zeroed { Fate::Leave } else { Fate::Zero };
                    fates.get_mut(from..end).unwrap_or_default().fill(fate);
                }
                from = end;
            }
        }
        if !matches!(self.planner.selection(), Selection::All) {
            self.leave(job, &mut fates);
        }
        fates
    }

    /// The same where plain bytes are not looked at.
    fn fates_as_is(&self, job: &Job, parts: &[Part]) -> Vec<Fate> {
        let unit = self.unit;
        let mut fates = vec![Fate::Data; (job.len as usize).div_ceil(unit)];
        for part in parts {
            let (start, end) = ((part.at - job.at) as usize, (part.at - job.at + part.extent.len) as usize);
            let whole = if end as u64 == job.len { fates.len() } else { end / unit };
            for index in start.div_ceil(unit)..whole {
                let skip = (index * unit - start) as u64;
                let fate = match part.extent.place {
                    Place::Data { device, offset } => Fate::Copy(device, offset + skip),
                    Place::Zero { .. } | Place::Unallocated => Fate::Zero,
                    Place::Compressed(_) | Place::Encrypted { .. } => Fate::Data,
                };
                if let Some(place) = fates.get_mut(index) {
                    *place = fate;
                }
            }
        }
        self.leave(job, &mut fates);
        fates
    }

    /// Units that need no work stay as they are.
    fn leave(&self, job: &Job, fates: &mut [Fate]) {
        let mut held = vec![false; fates.len()];
        for part in job.parts.iter().filter(|p| p.work) {
            let first = (part.at - job.at) as usize / self.unit;
            let last = (part.at + part.extent.len - 1 - job.at) as usize / self.unit;
            held.get_mut(first..=last).unwrap_or_default().fill(true);
        }
        for (fate, held) in fates.iter_mut().zip(held) {
            if !held {
                *fate = Fate::Leave;
            }
        }
    }
}
