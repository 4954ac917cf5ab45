//! Into targets where every byte has its place: plain extents go from file to file on the host's side.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::error::Stage;
use instar_image::reader::is_zero;
use instar_image::write::{Encrypter, Piece, Target, Writer};
use instar_image::{DeviceId, Error, FileOffset, Machine, Place, Result, Scope, Step, Zeroes};

use super::Settings;
use super::fill::Filler;
use super::plan::{Job, Part, Planner};
use super::progress::Progress;

/// Bytes that are decompressed before they are written.
const BUFFER: u64 = 2 << 20;
/// Bytes that the stock tool copies at once.
const PIECE: u64 = 2 << 20;
/// Bytes that are encrypted as one.
const SECTOR: usize = 512;
/// Smallest and largest unit in which the host looks for zeroes.
const UNIT_MIN: u64 = 512;
const UNIT_MAX: u64 = 2 << 20;

#[derive(Clone, Copy)]
struct Output<'a> {
    device: DeviceId,
    base: FileOffset,
    /// See [`Writer::split`].
    split: Option<(u64, &'a [DeviceId])>,
    /// What becomes of zeroes: they are left out where it reads as zeroes and may stay so.
    zeroes: Zeroes,
}

impl Output<'_> {
    /// Where byte `at` of the disk lies, and how many bytes follow it there.
    fn place(&self, at: u64) -> Result<(DeviceId, FileOffset, u64)> {
        let Some((each, devices)) = self.split else { return Ok((self.device, self.base + at, u64::MAX)) };
        let number = at.checked_div(each).and_then(|number| usize::try_from(number).ok());
        let device = number.and_then(|number| devices.get(number)).copied();
        let device = device.ok_or_else(|| Error::corrupt("a byte behind the last file"))?;
        Ok((device, FileOffset::new(at % each), each - at % each))
    }

    /// Adds what puts `piece` at byte `at` of the disk.
    fn put<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Steps<'p>) -> Result<()> {
        let len = piece.disk_len().unwrap_or(0);
        let mut done = 0;
        while done < len {
            let (device, offset, room) = self.place(at + done)?;
            let part = room.min(len - done);
            steps.add(
                at + done,
                piece.step(done, part, device, offset).map(|step| match step {
                    Step::Copy { from, from_offset, to, to_offset, len, .. } => {
                        Step::Copy { from, from_offset, to, to_offset, len, zeroes: self.zeroes }
                    }
                    Step::Zero { device, offset, len, .. } => {
                        Step::Zero { device, offset, len, unmap: self.zeroes != Zeroes::Copied }
                    }
                    other => other,
                }),
            );
            done += part;
        }
        Ok(())
    }
}

/// What is to be done, and for which byte of the disk each.
#[derive(Default)]
struct Steps<'p> {
    steps: Vec<Step<'p>>,
    at: Vec<u64>,
}

impl<'p> Steps<'p> {
    fn add(&mut self, at: u64, step: Option<Step<'p>>) {
        self.at.extend(step.iter().map(|_| at));
        self.steps.extend(step);
    }

    /// Says of a failure where it was and on which side, if that is known. Counted, as by the stock tool, in pieces.
    fn locate(&self, error: Error, first: u64) -> Error {
        let at = |step: usize, done: u64| self.at.get(step).map_or(first, |at| at + (done - done % PIECE));
        match error.scope {
            Some(Scope::Source(step, done)) => super::fill::unreadable(at(step, done), &error),
            Some(Scope::Target(step, done)) => unwritable(at(step, done), error),
            _ => unwritable(first, error),
        }
    }
}

/// Runs all jobs on all workers.
pub fn run(
    machine: &dyn Machine,
    writer: &dyn Writer,
    planner: &Planner<'_>,
    settings: Settings,
    progress: &Progress<'_>,
) -> Result<()> {
    let (device, base, zeroed, encrypted) = match writer.target() {
        Target::Linear { device, base, zeroed } => (device, base, zeroed, false),
        Target::LinearEncrypted { device, base } => (device, base, false, true),
        Target::Allocated { .. } => return Err(Error::corrupt("a target without an order")),
    };
    let encrypter = writer.encrypter().filter(|_| encrypted);
    if encrypted && encrypter.is_none() {
        return Err(Error::corrupt("an encrypted target without a key"));
    }
    let output = Output {
        device,
        base,
        split: writer.split(),
        zeroes: match settings.sparse.next_power_of_two().clamp(UNIT_MIN, UNIT_MAX) as u32 {
            _ if settings.sparse == 0 => Zeroes::Copied,
            unit if zeroed || settings.zeroed => Zeroes::Skipped(unit),
            unit => Zeroes::Unmapped(unit),
        },
    };
    machine.broadcast(&|_| {
        let mut worker = Worker {
            machine,
            output,
            encrypter,
            filler: Filler::new(planner.disks(), machine.source(), planner.losses()),
            salvage: planner.losses().is_some(),
            buf: Vec::new(),
        };
        loop {
            let jobs = planner.next(machine);
            let Some(first) = jobs.first() else { break };
            match worker.work(&jobs, first.at) {
                Ok(()) => progress.add(jobs.iter().map(|job| job.advance).sum()),
                Err(error) => planner.fail(first.at, error),
            }
        }
    });
    planner.outcome()
}

fn unwritable(at: u64, error: Error) -> Error {
    error.during(Stage::Write(at))
}

struct Worker<'a> {
    machine: &'a dyn Machine,
    output: Output<'a>,
    encrypter: Option<&'a dyn Encrypter>,
    filler: Filler<'a>,
    /// What the host cannot copy is read here, as far as it can be.
    salvage: bool,
    buf: Vec<u8>,
}

impl Worker<'_> {
    /// `first`: the first byte of the jobs.
    fn work(&mut self, jobs: &[Job], first: u64) -> Result<()> {
        if let Some(encrypter) = self.encrypter {
            return jobs.iter().try_for_each(|job| self.write_encrypted(job, encrypter));
        }
        let mut steps = Steps::default();
        for job in jobs {
            self.write(job, true, &mut steps)?;
        }
        let result = self.submit(&steps, first);
        match result {
            Err(Error { scope: Some(Scope::Source(..)), .. }) if self.salvage => {}
            other => return other,
        }
        jobs.iter().try_for_each(|job| {
            let mut steps = Steps::default();
            self.write(job, false, &mut steps)?;
            self.submit(&steps, job.at)
        })
    }

    fn submit(&self, steps: &Steps<'_>, first: u64) -> Result<()> {
        if steps.steps.is_empty() {
            return Ok(());
        }
        self.machine.submit(&steps.steps).map_err(|error| steps.locate(error, first))
    }

    /// All of it passes through the guest, zeroes too.
    fn write_encrypted(&mut self, job: &Job, encrypter: &dyn Encrypter) -> Result<()> {
        let Output { device, base, .. } = self.output;
        let len = (job.len as usize).next_multiple_of(SECTOR);
        if self.buf.len() < len {
            self.buf = vec![0; len.max(BUFFER as usize)];
        }
        let buf = self.buf.get_mut(..len).unwrap_or_default();
        buf.get_mut(job.len as usize..).unwrap_or_default().fill(0);
        self.filler.fill(&job.parts, job.at, buf)?;
        let offset = base + job.at;
        encrypter.encrypt(job.at, offset, buf);
        self.machine.submit(&[Step::Write { device, offset, data: buf }]).map_err(|e| unwritable(job.at, e))
    }

    /// Writes what has to pass through the guest; the rest becomes steps. `copies`: so does what is plain.
    fn write(&mut self, job: &Job, copies: bool, steps: &mut Steps<'_>) -> Result<()> {
        let output = self.output;
        let mut from = 0;
        while let Some(part) = job.parts.get(from) {
            let len = part.extent.len;
            match part.extent.place {
                Place::Data { device, offset } if copies => {
                    output.put(part.at, Piece::Copy(device, offset, len), steps)?;
                }
                Place::Zero { .. } | Place::Unallocated if matches!(output.zeroes, Zeroes::Skipped(_)) => {}
                Place::Zero { .. } | Place::Unallocated => output.put(part.at, Piece::Zero(len), steps)?,
                // Of an encrypted image, all is one part.
                Place::Data { .. } | Place::Encrypted { .. } if len > BUFFER => {
                    let mut done = 0;
                    while done < len {
                        let extent = part.extent.slice(part.extent.at + done, BUFFER);
                        self.decompress(&[Part { at: part.at + done, extent, ..*part }])?;
                        done += extent.len;
                    }
                }
                Place::Data { .. } | Place::Compressed(_) | Place::Encrypted { .. } => {
                    let run = compressed_run(job.parts.get(from..).unwrap_or_default());
                    self.decompress(run)?;
                    from += run.len();
                    continue;
                }
            }
            from += 1;
        }
        Ok(())
    }

    /// Decompresses a run of parts and writes what is not zeroes.
    fn decompress(&mut self, parts: &[Part]) -> Result<()> {
        let zeroes = self.output.zeroes;
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(()) };
        let len = (last.at + last.extent.len - first.at) as usize;
        if self.buf.len() < len {
            self.buf = vec![0; len.max(BUFFER as usize)];
        }
        let buf = self.buf.get_mut(..len).unwrap_or_default();
        self.filler.fill(parts, first.at, buf)?;
        let mut steps = Steps::default();
        let mut end = 0;
        let none = (len, &[][..]);
        for (offset, data) in runs(buf, first.at, zeroes.unit()).into_iter().chain([none]) {
            if matches!(zeroes, Zeroes::Unmapped(_)) {
                self.output.put(first.at + end as u64, Piece::Zero((offset - end) as u64), &mut steps)?;
            }
            self.output.put(first.at + offset as u64, Piece::Data(data), &mut steps)?;
            end = offset + data.len();
        }
        self.machine.submit(&steps.steps).map_err(|e| unwritable(first.at, e))
    }
}

/// As many parts from the first on as are compressed and fit into the buffer; at least one.
fn compressed_run(parts: &[Part]) -> &[Part] {
    let mut len = 0;
    let fits = parts.iter().take_while(|part| {
        len += part.extent.len;
        matches!(part.extent.place, Place::Compressed(_) | Place::Encrypted { .. }) && len <= BUFFER
    });
    let count = fits.count().max(1);
    parts.get(..count).unwrap_or_default()
}

/// The runs of `buf` (which stands for bytes from `at` on) that are to be written: offset and bytes. Units are the
/// target's own.
fn runs(buf: &[u8], at: u64, unit: Option<u32>) -> Vec<(usize, &[u8])> {
    let Some(unit) = unit.map(|unit| unit as usize) else { return vec![(0, buf)] };
    let mut found: Vec<(usize, &[u8])> = Vec::new();
    let mut start = None;
    let mut from = 0;
    while from < buf.len() {
        let next = ((at as usize + from) / unit + 1) * unit - at as usize;
        let end = next.min(buf.len());
        let zero = buf.get(from..end).is_some_and(is_zero);
        match (start, zero) {
            (None, false) => start = Some(from),
            (Some(begin), true) => {
                found.push((begin, buf.get(begin..from).unwrap_or_default()));
                start = None;
            }
            _ => {}
        }
        from = end;
    }
    if let Some(begin) = start {
        found.push((begin, buf.get(begin..).unwrap_or_default()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_over_the_bounds_of_files_goes_to_each() {
        let devices = [7, 8, 9].map(DeviceId);
        let split = Some((100, &devices[..]));
        let output = Output { device: devices[0], base: FileOffset::ZERO, split, zeroes: Zeroes::Skipped(512) };
        let mut steps = Steps::default();
        output.put(50, Piece::Copy(DeviceId(1), FileOffset::new(5000), 200), &mut steps).expect("it lies in the files");
        let copy = |from_offset, to, to_offset, len| Step::Copy {
            from: DeviceId(1),
            from_offset: FileOffset::new(from_offset),
            to: DeviceId(to),
            to_offset: FileOffset::new(to_offset),
            len,
            zeroes: Zeroes::Skipped(512),
        };
        assert_eq!(steps.at, [50, 100, 200]);
        assert_eq!(steps.steps, [copy(5000, 7, 50, 50), copy(5050, 8, 0, 100), copy(5150, 9, 0, 50)]);
        let data = [1; 20];
        let mut steps = Steps::default();
        output.put(190, Piece::Data(&data), &mut steps).expect("it lies in the files");
        let write =
            |device, offset, data| Step::Write { device: DeviceId(device), offset: FileOffset::new(offset), data };
        assert_eq!(steps.steps, [write(8, 90, &data[..10]), write(9, 0, &data[..10])]);
        assert!(output.put(290, Piece::Zero(20), &mut Steps::default()).is_err(), "there is no fourth file");
    }

    #[test]
    fn runs_of_zeroes_are_cut_out_on_the_targets_units() {
        let mut buf = vec![1u8; 10_000];
        buf[1096..5192].fill(0);
        let found: Vec<(usize, usize)> = runs(&buf, 3000, Some(4096)).iter().map(|(o, d)| (*o, d.len())).collect();
        assert_eq!(found, [(0, 1096), (5192, 4808)]);
        assert_eq!(runs(&buf, 3000, None).len(), 1);
        assert!(runs(&[0; 100], 5, Some(512)).is_empty());
    }
}
