//! Into targets that allocate: every worker reads, looks for zeroes and compresses by itself; places are given in the order
//! of the jobs, so that the result does not depend on the number of workers; writing is everybody's own again.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use instar_image::chain::Chain;
use instar_image::reader::is_zero;
use instar_image::write::{Packer, Piece, Placed, Target, Writer};
use instar_image::{DeviceId, Error, Machine, Place, Result, Step};

use super::fill::Filler;
use super::plan::{Job, Part, Planner};
use super::progress::Progress;
use super::{Selection, Settings};

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
    /// What reads the same through this chain needs no place.
    against: Option<&'a Chain<'a>>,
    /// Jobs that have their places and are being written.
    writing: AtomicU64,
}

/// Runs all jobs on all workers.
pub fn run(
    machine: &dyn Machine,
    chains: &[Chain<'_>],
    writer: &dyn Writer,
    planner: &Planner<'_>,
    settings: Settings,
    progress: &Progress<'_>,
) -> Result<()> {
    let Target::Allocated { unit, zero_unit, zeroed } = writer.target() else {
        return Err(Error::corrupt("a target with an order"));
    };
    let shared = Shared {
        machine,
        writer,
        planner,
        turn: AtomicU64::new(0),
        unit: unit as usize,
        zero_unit: zero_unit.max(settings.sparse.next_power_of_two().min(1 << 21)) as usize,
        zeroed: zeroed || settings.zeroed,
        sparse: settings.sparse != 0,
        as_is: settings.as_is,
        against: match planner.selection() {
            Selection::Differing(chain) => Some(chain),
            Selection::All | Selection::Layers(_) => None,
        },
        writing: AtomicU64::new(0),
    };
    machine.broadcast(&|_| {
        let mut worker = Worker {
            shared: &shared,
            filler: Filler::new(chains, machine.source(), settings.salvage),
            packer: if settings.compress { writer.packer() } else { None },
            other: shared.against.map(|chain| Filler::new(slice::from_ref(chain), machine.source(), false)),
            buf: Vec::new(),
            seen: Vec::new(),
            fates: Vec::new(),
            packed: Vec::new(),
        };
        while let Some(job) = planner.next() {
            match worker.work(&job) {
                Ok(()) => progress.add(job.advance),
                Err(error) => planner.fail(error),
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
    Copy(DeviceId, u64),
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
    packer: Option<Box<dyn Packer + 'a>>,
    /// Reads the chain that the result is compared with.
    other: Option<Filler<'a>>,
    buf: Vec<u8>,
    /// The same bytes through that chain.
    seen: Vec<u8>,
    /// What becomes of each unit of the job at hand.
    fates: Vec<Fate>,
    /// One compressed unit each; the buffers are used again.
    packed: Vec<Vec<u8>>,
}

impl Worker<'_> {
    fn work(&mut self, job: &Job) -> Result<()> {
        let shared = self.shared;
        let prepared = self.prepare(job);
        // The turn must come and go even after an error: the others wait for it.
        let mut spins = 0;
        while shared.turn.load(Ordering::Acquire) != job.ticket && !shared.planner.has_failed() {
            shared.machine.relax(&mut spins);
        }
        if let Err(error) = prepared {
            shared.planner.fail(error);
            shared.turn.store(job.ticket + 1, Ordering::Release);
            return Ok(());
        }
        let settled = shared.settle_if_full();
        let mut steps = Vec::new();
        let placed = settled.and_then(|()| self.place(job, &mut steps));
        shared.writing.fetch_add(1, Ordering::AcqRel);
        shared.turn.store(job.ticket + 1, Ordering::Release);
        let steps: Vec<Step<'_>> = steps.iter().map(Placed::as_step).collect();
        let written = placed.and_then(|()| shared.machine.submit(&steps));
        shared.writing.fetch_sub(1, Ordering::AcqRel);
        written.map_err(|e| e.context(format!("error while writing at byte {}", job.at)))
    }

    /// Reads and compresses.
    fn prepare(&mut self, job: &Job) -> Result<()> {
        let unit = self.shared.unit;
        let len = (job.len as usize).next_multiple_of(unit);
        if self.buf.len() < len {
            self.buf = vec![0; len];
        }
        let buf = self.buf.get_mut(..len).unwrap_or_default();
        buf.get_mut(job.len as usize..).unwrap_or_default().fill(0);
        let resolved = match self.shared.planner.selection() {
            Selection::Layers(_) => Some(self.shared.planner.resolve(&job.parts)?),
            Selection::All | Selection::Differing(_) => None,
        };
        let parts = resolved.as_deref().unwrap_or(&job.parts);
        if self.shared.as_is {
            return self.prepare_as_is(job, parts);
        }
        self.filler.fill(parts, job.at, buf)?;
        self.fates = self.shared.fates(job, self.buf.get(..len).unwrap_or_default());
        self.leave_what_is_the_same(job)?;
        let fates = &self.fates;
        let Some(packer) = self.packer.as_mut() else { return Ok(()) };
        self.packed.resize_with(self.packed.len().max(fates.len()), Vec::new);
        for ((fate, bytes), out) in fates.iter().zip(self.buf.chunks(unit)).zip(&mut self.packed) {
            let smaller = *fate == Fate::Data && packer.pack(bytes, out)?;
            if !smaller {
                out.clear();
            }
        }
        Ok(())
    }

    /// Only units that are not one plain extent, or one run of zeroes, are read.
    fn prepare_as_is(&mut self, job: &Job, parts: &[Part]) -> Result<()> {
        let unit = self.shared.unit;
        let mut fates = vec![Fate::Data; (job.len as usize).div_ceil(unit)];
        for part in parts {
            let (start, end) = ((part.at - job.at) as usize, (part.at - job.at + part.extent.len) as usize);
            let whole = if end as u64 == job.len { fates.len() } else { end / unit };
            for index in start.div_ceil(unit)..whole {
                let skip = (index * unit - start) as u64;
                let fate = match part.extent.place {
                    Place::Data { device, offset } => Fate::Copy(device, offset + skip),
                    Place::Zero { .. } | Place::Unallocated => Fate::Zero,
                    Place::Packed(_) | Place::Encrypted { .. } => Fate::Data,
                };
                if let Some(place) = fates.get_mut(index) {
                    *place = fate;
                }
            }
        }
        self.shared.leave(job, &mut fates);
        let is_read = |part: &&Part| {
            let first = (part.at - job.at) as usize / unit;
            let last = (part.at - job.at + part.extent.len - 1) as usize / unit;
            fates.get(first..=last).unwrap_or_default().contains(&Fate::Data)
        };
        let read: Vec<Part> = parts.iter().filter(is_read).copied().collect();
        let len = fates.len() * unit;
        self.fates = fates;
        self.filler.fill(&read, job.at, self.buf.get_mut(..len).unwrap_or_default())
    }

    /// Units that read the same through the other chain are left to it.
    fn leave_what_is_the_same(&mut self, job: &Job) -> Result<()> {
        let (Some(other), Some(chain)) = (&mut self.other, self.shared.against) else { return Ok(()) };
        let len = job.len as usize;
        if self.seen.len() < len {
            self.seen = vec![0; self.buf.len().max(len)];
        }
        let seen = self.seen.get_mut(..len).unwrap_or_default();
        let shown = chain.virtual_size().saturating_sub(job.at).min(job.len);
        let (mut parts, mut done) = (Vec::new(), 0);
        while done < shown {
            let at = job.at + done;
            let (depth, extent) = chain.extent(at, shown - done)?;
            if extent.len == 0 {
                return Err(Error::corrupt("an extent without a byte"));
            }
            parts.push(Part { source: 0, depth, at, extent, work: true });
            done += extent.len;
        }
        other.fill(&parts, job.at, seen)?;
        seen.get_mut(shown as usize..).unwrap_or_default().fill(0);
        let unit = self.shared.unit;
        let pairs = self.buf.get(..len).unwrap_or_default().chunks(unit).zip(seen.chunks(unit));
        for (fate, (ours, theirs)) in self.fates.iter_mut().zip(pairs) {
            if ours == theirs {
                *fate = Fate::Leave;
            }
        }
        Ok(())
    }

    /// Has every run placed, in its turn.
    fn place<'p>(&'p self, job: &Job, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let Shared { unit, writer, .. } = *self.shared;
        let len = (job.len as usize).next_multiple_of(unit);
        let buf = self.buf.get(..len).unwrap_or_default();
        let fates = &self.fates;
        let is_packed = |i: usize| self.packer.is_some() && self.packed.get(i).is_some_and(|bytes| !bytes.is_empty());
        let mut i = 0;
        while let Some(fate) = fates.get(i) {
            let at = job.at + (i * unit) as u64;
            if *fate == Fate::Data && is_packed(i) {
                writer.place(at, Piece::Packed(self.packed.get(i).map_or(&[][..], Vec::as_slice)), steps)?;
                i += 1;
                continue;
            }
            let same = fates
                .iter()
                .enumerate()
                .skip(i)
                .take_while(|(k, f)| **f == fate.further(k - i, unit) && !(*fate == Fate::Data && is_packed(*k)));
            let count = same.count();
            let (start, end) = (i * unit, (i + count) * unit);
            match fate {
                Fate::Leave => {}
                Fate::Zero => writer.place(at, Piece::Zero((end - start) as u64), steps)?,
                Fate::Copy(device, offset) => {
                    let len = ((end - start) as u64).min(job.len - start as u64);
                    writer.place(at, Piece::Copy(*device, *offset, len), steps)?;
                }
                Fate::Data => writer.place(at, Piece::Data(buf.get(start..end).unwrap_or_default()), steps)?,
            }
            i += count;
        }
        Ok(())
    }
}

impl Shared<'_> {
    /// Called by the worker whose turn it is: nobody else places anything, and what is being written is waited for.
    fn settle_if_full(&self) -> Result<()> {
        if !self.writer.is_full() {
            return Ok(());
        }
        let mut spins = 0;
        while self.writing.load(Ordering::Acquire) != 0 {
            self.machine.relax(&mut spins);
        }
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
