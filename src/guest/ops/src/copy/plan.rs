//! Dividing the work: jobs of a few MiB in ascending order, holes skipped however large.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use instar_image::chain::Chain;
use instar_image::damage::SECTOR;
use instar_image::error::Stage;
use instar_image::walk::{Stretch, walk};
use instar_image::write::Target;
use instar_image::{Error, Extent, Kind, Machine, Place, Result, Scope, until};
use spin::Mutex;

use super::files::Files;
use super::losses::{Cause, Losses, words};
use super::{Disks, Selection, Settings};

/// Bytes of a job whose data passes through the guest.
const JOB_BYTES: u64 = 2 << 20;
/// The same of all workers' tasks together where a source is waited for: what is read at once is under way at once.
const SLOW_BYTES: u64 = 16 << 20;
/// Most bytes of a job that the host copies by itself.
const COPY_JOB_BYTES: u64 = 16 << 20;
/// A disk is at least so many jobs, if it is not very small: progress is told after each.
const PARTS_MIN: u64 = 4;
const EIO: u32 = 5;
/// Most jobs that are handed out together.
const JOBS_MAX: usize = 64;
/// Most extents of a job.
const EXTENTS_MAX: usize = 4096;

/// Part of a job: where the bytes from `at` of the target on come from.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which source.
    pub source: usize,
    /// Which layer of its chain.
    pub depth: usize,
    /// First byte, in the target's disk.
    pub at: u64,
    /// The extent in the source.
    pub extent: Extent,
    /// The target has to be made to show it; else it does so already.
    pub work: bool,
}

impl Stretch for Part {
    fn bytes(&self) -> u64 {
        self.extent.len
    }
}

/// A part of a worker's next task: bytes in a row.
#[derive(Debug)]
pub struct Job {
    /// Jobs are numbered from 0 on without a gap.
    pub ticket: u64,
    /// First byte.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it consists of, ascending and without a gap.
    pub parts: Vec<Part>,
    /// Bytes since the job before, holes between included: for progress.
    pub advance: u64,
}

struct Position {
    next: u64,
    ticket: u64,
    reported: u64,
}

/// Whether anything that is read is waited for.
fn is_slow(machine: &dyn Machine, disks: Disks<'_>) -> bool {
    disks.devices().any(|device| machine.stat(device).is_ok_and(|stat| stat.slow))
}

/// Hands out jobs. The first error anywhere ends it.
pub struct Planner<'a> {
    disks: Disks<'a>,
    /// First byte of each source in the target.
    starts: Vec<u64>,
    total: u64,
    /// Where the sources end, and the target itself goes on.
    rest_at: u64,
    /// Bytes of the first source that stand before the target's first.
    skip: u64,
    /// Layers of the target's chain that lie above what it shows already.
    above: usize,
    unit: u64,
    /// Bytes after which jobs begin anew: where they end depends on nothing else.
    job_bytes: u64,
    /// How many times as much is handed out together.
    groups: u64,
    /// Holes need no work: the target reads as zeroes.
    skip_holes: bool,
    /// What cannot be read, if the rest is to be saved.
    losses: Option<Losses>,
    selection: Selection<'a>,
    files: Files<'a>,
    position: Mutex<Position>,
    failed: AtomicBool,
    /// With the byte of the disk at which work began that failed.
    failure: Mutex<Option<(u64, Error)>>,
}

impl<'a> Planner<'a> {
    /// At the beginning. The sources have `size` bytes; `rest` more are the target's own.
    pub fn new(
        machine: &'a dyn Machine,
        disks: Disks<'a>,
        target: Target,
        settings: Settings,
        selection: Selection<'a>,
        (size, rest): (u64, u64),
    ) -> Self {
        let (unit, zeroed, job_bytes) = match target {
            Target::Linear { .. } | Target::LinearEncrypted { .. } => {
                // What is encrypted and was not written reads as nothing in particular.
                let zeroed = matches!(target, Target::Linear { zeroed: true, .. });
                let part = (size + rest) / PARTS_MIN / JOB_BYTES * JOB_BYTES;
                (1, zeroed || settings.zeroed, part.clamp(JOB_BYTES, COPY_JOB_BYTES))
            }
            Target::Allocated { unit, zeroed, .. } => (unit, zeroed || settings.zeroed, JOB_BYTES),
        };
        let groups = match target {
            Target::Allocated { .. } if is_slow(machine, disks) => {
                // What is held of each job: its bytes, and those that they are compared with or compressed into.
                let held = if settings.compress || matches!(selection, Selection::Differing(_)) { 2 } else { 1 };
                let part = (size + rest) / PARTS_MIN / JOB_BYTES;
                part.min(SLOW_BYTES / JOB_BYTES / held / machine.workers() as u64).max(1)
            }
            _ => 1,
        };
        let starts = disks
            .sources
            .iter()
            .scan(0u64, |next, chain| {
                let start = *next;
                *next = next.saturating_add(chain.virtual_size());
                Some(start)
            })
            .collect();
        Self {
            disks,
            starts,
            total: size + rest,
            rest_at: if rest > 0 { size } else { u64::MAX },
            skip: 0,
            above: if let Selection::Layers(count) = selection { count } else { 0 },
            unit,
            job_bytes,
            groups,
            skip_holes: zeroed && settings.sparse != 0,
            losses: settings.salvage.then(Losses::default),
            selection,
            files: Files::new(machine.source()),
            position: Mutex::new(Position { next: 0, ticket: 0, reported: 0 }),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Leaves out so many bytes at the beginning of the first source.
    #[must_use]
    pub fn skipping(self, bytes: u64) -> Self {
        Self { skip: bytes, ..self }
    }

    /// Hands out jobs of whole sectors, small enough to be held in memory, for a target that encrypts all of them.
    #[must_use]
    pub fn encrypting(self, is: bool) -> Self {
        if is { Self { unit: self.unit.max(SECTOR), job_bytes: JOB_BYTES, groups: 1, ..self } } else { self }
    }

    /// Remembers the error that is the first on the disk, and ends the handing out.
    pub fn fail(&self, at: u64, error: Error) {
        let mut failure = self.failure.lock();
        if failure.as_ref().is_none_or(|(before, _)| at < *before) {
            *failure = Some((at, error));
        }
        self.failed.store(true, Ordering::Release);
    }

    /// An error was seen.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The error, if there was one.
    pub fn outcome(&self) -> Result<()> {
        self.failure.lock().take().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// What cannot be read is remembered there; `None`: it is an error.
    pub const fn losses(&self) -> Option<&Losses> {
        self.losses.as_ref()
    }

    /// What is read.
    pub const fn disks(&self) -> Disks<'a> {
        self.disks
    }

    /// Which parts of the sources are work.
    pub const fn selection(&self) -> Selection<'a> {
        self.selection
    }

    /// The parts with what the upper images leave to others resolved through what the target shows
    /// already: for units that are held only partly.
    pub fn resolve(&self, parts: &[Part]) -> Result<Vec<Part>> {
        let mut resolved = Vec::with_capacity(parts.len());
        let source = self.disks.sources.len();
        for part in parts {
            let Some(chain) = self.disks.get(source).filter(|_| part.extent.place == Place::Unallocated) else {
                resolved.push(*part);
                continue;
            };
            let found = walk(part.at..part.at.saturating_add(part.extent.len), |at, left| {
                let found = self.or_lost(source, at, left, chain.extent_below(self.above, at, left));
                let (depth, extent) = found.map_err(|e| no_place(at, e))?;
                let extent = self.readable(source, depth, extent, at)?;
                Ok(Part { source, depth, at, extent, ..*part })
            });
            for part in found {
                resolved.push(part?);
            }
        }
        Ok(resolved)
    }

    /// The next jobs, as many as are worth a crossing to the host; none when there are no more, or after an error.
    pub fn next(&self, machine: &dyn Machine) -> Vec<Job> {
        // Tables may be read for it, which takes a while: who waits does not keep a processor.
        let mut position = until(machine, || self.position.try_lock());
        let mut jobs = Vec::new();
        for _ in 0..self.groups {
            self.group(&mut position, &mut jobs);
        }
        if self.has_failed() { Vec::new() } else { jobs }
    }

    fn group(&self, position: &mut Position, all: &mut Vec<Job>) {
        let (mut jobs, mut bytes, mut parts) = (Vec::new(), 0, 0);
        while bytes < self.job_bytes && parts < EXTENTS_MAX && jobs.len() < JOBS_MAX && !self.has_failed() {
            match self.plan(position, self.job_bytes - bytes) {
                Ok(Some(job)) => {
                    bytes += job.len;
                    parts += job.parts.len();
                    jobs.push(job);
                }
                Ok(None) => break,
                // What was planned already is dropped: nobody waits for its turn after an error.
                Err(error) => self.fail(position.next, error),
            }
        }
        all.append(&mut jobs);
    }

    /// The part at byte `at` of the target.
    fn part(&self, at: u64, max: u64) -> Result<Part> {
        let is_rest = at >= self.rest_at;
        // Sources without a byte begin where the next begins, which is the later of the two.
        let source = self.starts.partition_point(|start| *start <= at).saturating_sub(1);
        let source = if is_rest { self.disks.sources.len() } else { source };
        let start = if is_rest { Some(&0) } else { self.starts.get(source) };
        let (Some(start), Some(chain)) = (start, self.disks.get(source)) else {
            return Err(Error::corrupt("a byte beyond the last source"));
        };
        let inside = at.saturating_sub(*start).saturating_add(if is_rest { 0 } else { self.skip });
        let max = match self.selection {
            Selection::Layers(_) if is_rest => max,
            _ => max.min(chain.virtual_size().saturating_sub(inside)),
        };
        let max = if is_rest { max } else { max.min(self.rest_at - at) };
        let found = match self.selection {
            // Behind the sources' end is what the target shows by itself.
            _ if is_rest => chain.extent_below(self.above, inside, max),
            // Only what the upper images themselves hold is copied.
            Selection::Layers(count) => chain.extent_above(count, inside, max),
            Selection::Own => chain.extent_own(inside, max).map(|extent| (0, extent)),
            Selection::All | Selection::Differing(_) => chain.extent(inside, max),
        };
        let (depth, extent) = self.or_lost(source, inside, max, found).map_err(|e| no_place(inside, e))?;
        let extent = self.readable(source, depth, extent, at)?;
        let part = Part { source, depth, at, extent, work: true };
        if let Selection::Differing(other) = self.selection {
            return self.differing(part, other);
        }
        let work = match part.extent.place {
            _ if is_rest => false,
            Place::Unallocated => matches!(self.selection, Selection::All) && !self.skip_holes,
            Place::Zero { .. } => !self.skip_holes,
            _ => true,
        };
        Ok(Part { work, ..part })
    }

    /// What was found at byte `at` of a source. Where its place cannot be had, as much is lost as whoever looked for it
    /// says, else a sector: zeroes, for `--salvage`.
    fn or_lost(&self, source: usize, at: u64, max: u64, found: Result<(usize, Extent)>) -> Result<(usize, Extent)> {
        let (Err(error), Some(losses)) = (&found, &self.losses) else { return found };
        let len = match error.scope {
            Some(Scope::Lost(len)) => len,
            _ => SECTOR - at % SECTOR,
        };
        let len = len.clamp(1, max.max(1));
        losses.add(source, at, len, Cause::Place, error);
        Ok((0, Extent { at, len, place: Place::Zero { at: None } }))
    }

    /// What layer `depth` of a source holds for byte `at` of the target, if it can be had: zeroes instead for
    /// `--salvage`.
    fn readable(&self, source: usize, depth: usize, extent: Extent, at: u64) -> Result<Extent> {
        let Some(chain) = self.disks.get(source) else { return Ok(extent) };
        match (chain.readable(depth, extent), &self.losses) {
            (Err(error), Some(losses)) => {
                losses.add(source, extent.at, extent.len, Cause::Bytes, &error);
                Ok(Extent { place: Place::Zero { at: None }, ..extent })
            }
            (found, _) => found.map_err(|error| super::fill::unreadable(at, &error)),
        }
    }

    /// The part, or the beginning of it that is equally easy to tell: is it the same through the other chain?
    fn differing(&self, part: Part, other: &Chain<'_>) -> Result<Part> {
        let Extent { at, len, place } = part.extent;
        if part.depth == 0 && place != Place::Unallocated {
            return Ok(Part { work: false, ..part });
        }
        let size = other.virtual_size();
        let there = if at < size {
            other.extent(at, len.min(size - at))?.1
        } else {
            Extent { at, len, place: Place::Unallocated }
        };
        let work = !self.files.same_bytes(place, there.place)?;
        Ok(Part { extent: part.extent.slice(at, there.len), work, ..part })
    }

    /// `room`: bytes that the job may have, rounded up to whole units.
    fn plan(&self, position: &mut Position, room: u64) -> Result<Option<Job>> {
        // Past what needs no work.
        let mut ahead = walk(position.next..self.total, |at, max| self.part(at, max));
        let Some(first) = ahead.find(|part| part.as_ref().map_or(true, |part| part.work)).transpose()? else {
            position.next = position.next.max(self.total);
            return Ok(None);
        };
        // Whole units: what lies before the first work in its unit belongs to the job.
        let start = (first.at / self.unit * self.unit).max(position.next);
        let end = start.saturating_add(room).next_multiple_of(self.unit).min(self.total);
        let mut parts = Vec::new();
        let mut at = start;
        let mut work_end = start;
        let found = walk(start..end, |at, max| match at {
            _ if at == first.at => Ok(Part { extent: first.extent.slice(first.extent.at, max), ..first }),
            _ => self.part(at, max),
        });
        for part in found.take(EXTENTS_MAX) {
            let part = part?;
            let next = at.saturating_add(part.extent.len);
            if part.work {
                work_end = next;
            } else if at >= work_end.next_multiple_of(self.unit) && part.extent.len >= self.unit {
                // A hole of whole units ends the job.
                break;
            }
            parts.push(part);
            at = next;
        }
        let end = work_end.next_multiple_of(self.unit).min(self.total);
        let end = if at < end { self.cut(&mut parts, at, start) } else { self.trim(&mut parts, end) };
        let ticket = position.ticket;
        position.ticket += 1;
        position.next = end;
        let advance = end.saturating_sub(position.reported);
        position.reported = end;
        Ok(Some(Job { ticket, at: start, len: end - start, parts, advance }))
    }

    /// The job stopped in the middle of a unit (too many extents): back to the last whole one, or on to the end of the
    /// first.
    fn cut(&self, parts: &mut Vec<Part>, at: u64, start: u64) -> u64 {
        let whole = at / self.unit * self.unit;
        if whole > start {
            return self.trim(parts, whole);
        }
        let end = (start + self.unit).min(self.total);
        parts.extend(walk(at..end, |at, max| self.part(at, max)).map_while(Result::ok));
        end
    }

    /// Drops what lies behind `end`.
    fn trim(&self, parts: &mut Vec<Part>, end: u64) -> u64 {
        while parts.last().is_some_and(|p| p.at >= end) {
            parts.pop();
        }
        if let Some(last) = parts.last_mut() {
            last.extent = last.extent.slice(last.extent.at, end - last.at);
        }
        end
    }
}

/// Where byte `at` of a source is cannot be told. What is wrong with its tables stands on a line of its own.
fn no_place(at: u64, error: Error) -> Error {
    let stage = Stage::Status(at);
    if matches!(error.kind, Kind::Corrupt) {
        return Error::new(Kind::Io(EIO), words(&error)).during(stage).after(error.message);
    }
    error.during(stage)
}
