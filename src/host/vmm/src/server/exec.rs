//! Carrying out checked requests.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::bulk::{Buffer, Zeroes};
use crate::policy::{Asked, Opened};
use crate::{Device, target};
use instar_abi::ring::{
    Beside, ExtentEntry, FLAG_ALLOCATE, FLAG_FULL, FLAG_SKIP_ZERO, FLAG_UNMAP, FLAG_WRITE, Op, Reply, Role,
    STAT_ALIGNMENT_SHIFT, STAT_BLOCK_DEVICE, STAT_CONTENDED, STAT_FRESH, STAT_HINT_SHIFT, STAT_SAME_FILE_SHIFT,
    STAT_SHARES, STAT_SLOW, STAT_WRITABLE, Status,
};
use rustix::fs::{FallocateFlags, SeekFrom};
use zerocopy::IntoBytes;

use super::Server;
use super::check::Checked;
use super::table::Slot;

pub(super) fn refused(status: Status) -> Reply {
    Reply { status: status as u32, ..Reply::default() }
}

pub(super) fn failed(error: &io::Error) -> Reply {
    let errno = error.raw_os_error().unwrap_or(libc::EIO).cast_unsigned();
    Reply { status: Status::Io as u32, errno, ..Reply::default() }
}

fn value(value: u64) -> Reply {
    Reply { value, ..Reply::default() }
}

/// The outcome of one request: a reply either way.
pub(super) type Outcome = Result<Reply, Reply>;

impl Server<'_> {
    /// What comes before a request to a device is carried out, whoever does that: may it be, and what is to be known or kept
    /// first?
    pub(super) fn admit(&self, request: &Checked<'_>) -> Result<(), Reply> {
        if let Some((grows, end)) = request.grows_to()
            && !self.table.grant(grows, end)
        {
            self.growth_refused.fetch_max(grows.growth_limit().unwrap_or(0), Ordering::Relaxed);
            return Err(refused(Status::GrowthLimit));
        }
        if request.gives() {
            request.slots().for_each(|slot| self.policy.gives(slot));
        }
        changed(request).map_or(Ok(()), |changed| changed.begin().map_err(|e| failed(&e)))
    }

    /// Carries out a request to a device, or a piece of one, that was admitted.
    pub(super) fn carry_out(&self, buffer: &mut Buffer, request: &Checked<'_>) -> Outcome {
        let slot = request.slot.as_deref().ok_or_else(|| refused(Status::BadDevice))?;
        match request.op {
            Op::Read => read(slot, request),
            Op::Write => write(slot, request),
            Op::Copy => {
                const UNIT: usize = 4096;
                let to = request.slot2.as_deref().ok_or_else(|| refused(Status::BadDevice))?;
                let unit = if request.arg == 0 { UNIT } else { request.arg as usize };
                let zeroes = match (request.flags & FLAG_SKIP_ZERO != 0, request.flags & FLAG_UNMAP != 0) {
                    (false, _) => Zeroes::Copied,
                    (true, false) => Zeroes::Skipped(unit),
                    (true, true) => Zeroes::Unmapped(unit),
                };
                let (from, to) = ((slot, request.offset), (to, request.offset2));
                super::bulk::copy(buffer, from, to, request.len, zeroes, &self.aborted).map(value).map_err(|b| Reply {
                    value: b.done,
                    value2: u64::from(b.in_target),
                    ..failed(&b.error)
                })
            }
            Op::WriteZeroes => {
                let (unmap, allocate) = (request.flags & FLAG_UNMAP != 0, request.flags & FLAG_ALLOCATE != 0);
                let done = write_zeroes(slot, (request.offset, request.len), unmap, allocate, &self.aborted);
                done.map(value).map_err(|e| failed(&e))
            }
            Op::Discard => {
                punch(slot, request.offset, request.len).ok();
                Ok(Reply::default())
            }
            Op::Flush => slot.finish().map_err(|e| failed(&e)).and_then(|()| {
                if slot.device.ignore_flush {
                    return Ok(Reply::default());
                }
                rustix::fs::fdatasync(&slot.device.file).map(|()| value(0)).map_err(|e| failed(&e.into()))
            }),
            Op::SetLength => slot.set_length(request.len).map(|()| value(0)).map_err(|e| failed(&e)),
            Op::Allocate => allocate(slot, request, &self.aborted).map(value).map_err(|e| failed(&e)),
            Op::Extents => extents(slot, request, &self.aborted),
            Op::Compare => {
                let other = request.slot2.as_deref().ok_or_else(|| refused(Status::BadDevice))?;
                let both = ((slot, request.offset), (other, request.offset2));
                super::bulk::compare(buffer, both.0, both.1, request.len, &self.aborted)
                    .map(value)
                    .map_err(|e| failed(&e))
            }
            Op::OpenNamed => self.open_named(request),
            Op::CreateBeside => self.create_beside(slot, request),
            Op::Stat => Ok(stat(slot, self.table.first_of(slot))),
            _ => Err(refused(Status::BadRequest)),
        }
    }

    pub(super) fn simple(&self, worker: u32, request: &Checked<'_>) -> Outcome {
        match request.op {
            Op::Progress => {
                self.observer.progress(request.offset, request.len);
                self.pause(self.observer.delay(request.offset));
            }
            // Only the first worker's thread has capabilities left to drop.
            Op::Seal if worker == 0 => {
                if !self.sealed.swap(true, Ordering::Relaxed) {
                    crate::lockdown::seal();
                }
            }
            Op::Clock => return Ok(value(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))),
            _ => return Err(refused(Status::BadRequest)),
        }
        Ok(Reply::default())
    }

    /// Sleeps, but never past the end of the run.
    fn pause(&self, mut left: Duration) {
        const SLICE: Duration = Duration::from_millis(20);
        while !left.is_zero() && !self.aborted.load(Ordering::Relaxed) {
            let slice = left.min(SLICE);
            std::thread::sleep(slice);
            left -= slice;
        }
    }

    fn open_named(&self, request: &Checked<'_>) -> Outcome {
        if self.sealed.load(Ordering::Relaxed) {
            return Err(refused(Status::Sealed));
        }
        let role = Role::from_wire(request.arg).ok_or_else(|| refused(Status::BadRequest))?;
        let write = request.flags & FLAG_WRITE != 0;
        let chain = self.ancestry(request.dev);
        let held = |file| self.table.held(file, request.dev, role, write);
        let _alone = self.opening.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = request.buf.to_vec();
        let found = self.policy.find(&name, &chain);
        let path = found.leads_to.clone();
        let answer = self.policy.open(found, role, write, &chain, &held).and_then(|device| match device {
            Opened::Again(index) => Ok(index),
            Opened::New(device) => {
                self.table.push(*device, request.dev, Some(role)).ok_or_else(|| Status::TooMany.into())
            }
        });
        self.asked.add(Asked { device: request.dev, name, path, role, answer });
        answer.map(|index| value(u64::from(index))).map_err(|no| Reply { errno: no.errno, ..refused(no.status) })
    }

    fn create_beside(&self, slot: &Slot, request: &Checked<'_>) -> Outcome {
        if self.sealed.load(Ordering::Relaxed) {
            return Err(refused(Status::Sealed));
        }
        let maker = slot.device.maker.as_ref().ok_or_else(|| refused(Status::BadDevice))?;
        let kind = Beside::from_wire(request.arg).ok_or_else(|| refused(Status::BadRequest))?;
        let number = u32::try_from(request.len).map_err(|_| refused(Status::BadRequest))?;
        if self.table.is_full() {
            return Err(refused(Status::TooMany));
        }
        let (file, path) = maker.make(kind, number).map_err(|error| match error {
            target::Error::Io(error) => failed(&error),
            target::Error::Locked(locked) => Reply { value: u64::from(locked.code()), ..refused(Status::Locked) },
            target::Error::WrongType | target::Error::ReadOnlyDevice => refused(Status::WrongType),
        })?;
        let (direct, ignore_flush) = (target::is_direct(&file), slot.device.ignore_flush);
        let (path, mode) = (slot.device.path.with_file_name(path.file_name().unwrap_or_default()), slot.device.mode);
        let device = Device { fresh: true, direct, ignore_flush, ..Device::new(file, path, mode) };
        let index = self.table.push(device, request.dev, None).ok_or_else(|| refused(Status::TooMany))?;
        Ok(value(u64::from(index)))
    }

    /// The device and those whose images led to it, nearest first.
    fn ancestry(&self, dev: u32) -> Vec<std::sync::Arc<Slot>> {
        let mut chain = Vec::new();
        let mut next = Some(dev);
        while let Some(slot) = next.and_then(|index| self.table.get(index)) {
            next = slot.parent;
            chain.push(slot);
        }
        chain
    }
}

/// The device whose content the request changes.
fn changed<'r>(request: &'r Checked<'_>) -> Option<&'r Slot> {
    match request.op {
        Op::Write | Op::WriteZeroes | Op::Discard | Op::SetLength | Op::Allocate => request.slot.as_deref(),
        Op::Copy => request.slot2.as_deref(),
        _ => None,
    }
}

fn stat(slot: &Slot, same_file: u32) -> Reply {
    use std::os::unix::fs::MetadataExt;
    const SECTOR: u64 = 512;
    let allocated = if slot.is_hidden() { 0 } else { slot.device.file.metadata().map_or(0, |m| m.blocks() * SECTOR) };
    let bit = |is: bool, bit: u64| if is { bit } else { 0 };
    let alignment = if slot.device.direct { super::direct::ALIGNMENT as u64 } else { 1 };
    let bits = bit(slot.block, STAT_BLOCK_DEVICE)
        | bit(slot.growth_limit().is_some(), STAT_WRITABLE)
        | bit(slot.device.fresh, STAT_FRESH)
        | bit(slot.device.contended, STAT_CONTENDED)
        | bit(slot.is_slow(), STAT_SLOW)
        | bit(slot.may_share(), STAT_SHARES);
    Reply {
        value: slot.len.load(Ordering::Relaxed),
        value2: allocated,
        value3: bits
            | u64::from(same_file) << STAT_SAME_FILE_SHIFT
            | (u64::from(slot.extent_size_hint) / SECTOR) << STAT_HINT_SHIFT
            | u64::from(alignment.trailing_zeros()) << STAT_ALIGNMENT_SHIFT,
        ..Reply::default()
    }
}

fn read(slot: &Slot, request: &Checked<'_>) -> Outcome {
    /// Whoever can do with less asks for it again in parts, down to these.
    const FEW: u64 = 65536;
    let (mut done, mut again) = (0, request.len <= FEW && !slot.device.direct);
    while done < request.buf.len() && !slot.is_hidden() {
        let rest = request.buf.skip(done);
        let got = if slot.device.direct {
            super::direct::read_to(slot, request.offset + done as u64, rest)
        } else {
            rest.read_at(&slot.device.file, request.offset + done as u64)
        };
        match got {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if again && error.raw_os_error() == Some(libc::EIO) => {
                again = false;
                slot.read_alone(request.offset);
            }
            Err(error) => return Err(failed(&error)),
        }
    }
    request.buf.skip(done).fill_zero();
    slot.show_kept(request.offset, done, |kept| request.buf.copy_from(kept));
    // The file may be longer than the device.
    let there = slot.len.load(Ordering::Acquire).saturating_sub(request.offset);
    let is_longer = slot.device.direct && slot.device.fresh;
    Ok(value(if is_longer { there.min(done as u64) } else { done as u64 }))
}

fn write(slot: &Slot, request: &Checked<'_>) -> Outcome {
    slot.reserve(request.offset + request.len);
    let mut done = if slot.keeps(request.offset) { slot.keep(request.offset, &request.buf.to_vec()) } else { 0 };
    while done < request.buf.len() {
        let rest = request.buf.skip(done);
        let got = if slot.device.direct {
            super::direct::write(slot, request.offset + done as u64, &rest.to_vec()).map(|()| rest.len())
        } else {
            rest.write_at(&slot.device.file, request.offset + done as u64)
        };
        match got {
            Ok(0) => return Err(failed(&io::Error::from_raw_os_error(libc::ENOSPC))),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    Ok(Reply::default())
}

fn fallocate(slot: &Slot, how: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
    loop {
        match rustix::fs::fallocate(&slot.device.file, how, offset, len) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn punch(slot: &Slot, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    fallocate(slot, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
}

/// No room, or the disk is broken: what another way to do the same would meet as well.
fn is_final(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EIO | libc::EFBIG))
}

pub(super) fn write_zeroes(
    slot: &Slot,
    (offset, len): (u64, u64),
    unmap: bool,
    allocate: bool,
    over: &AtomicBool,
) -> io::Result<u64> {
    if len == 0 {
        return Ok(0);
    }
    // What is past the old end reads as zeroes as soon as it exists.
    let old = slot.extend(offset + len)?;
    if offset >= old && !allocate {
        return Ok(0);
    }
    let unmap = unmap && !allocate;
    if let Some(old) = &slot.device.old {
        old.keep_zeroes(offset, len);
    }
    let quick = match if unmap { Some(punch(slot, offset, len)) } else { None } {
        Some(Err(error)) if is_final(&error) => Err(error),
        Some(Ok(())) => Ok(()),
        _ => fallocate(slot, FallocateFlags::ZERO_RANGE, offset, len),
    };
    match quick {
        Ok(()) => Ok(0),
        Err(error) if is_final(&error) => Err(error),
        Err(_) => super::bulk::write_plain_zeroes(slot, offset, len, over).map(|()| 0),
    }
}

fn allocate(slot: &Slot, request: &Checked<'_>, over: &AtomicBool) -> io::Result<u64> {
    let (offset, len) = (request.offset, request.len);
    if len == 0 {
        return Ok(0);
    }
    if request.flags & FLAG_FULL != 0 {
        return super::bulk::write_plain_zeroes(slot, offset, len, over).map(|()| 0);
    }
    let old = slot.len.load(Ordering::Acquire);
    slot.reserve(offset + len);
    match fallocate(slot, FallocateFlags::empty(), offset, len) {
        // Where blocks cannot be reserved they are written, but for those that may hold something.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let start = offset.max(old);
            super::bulk::write_plain_zeroes(slot, start, (offset + len).saturating_sub(start), over).map(|()| 0)
        }
        other => other.map(|()| 0),
    }
}

/// Data and holes, until the run is over. Where the file system cannot tell, all is data.
pub(super) fn extents(slot: &Slot, request: &Checked<'_>, over: &AtomicBool) -> Outcome {
    let room = request.buf.len() / size_of::<ExtentEntry>();
    let len = slot.len.load(Ordering::Relaxed);
    let end = (request.offset + request.len).min(len);
    let mut entries: Vec<ExtentEntry> = Vec::new();
    let mut at = request.offset;
    while at < end && entries.len() < room && !over.load(Ordering::Relaxed) {
        let (data, until) = run_at(slot, at, len);
        let until = until.clamp(at + 1, end);
        entries.push(ExtentEntry { len: until - at, data: u64::from(data) });
        at = until;
    }
    request.buf.copy_from(entries.as_bytes());
    Ok(Reply { value: entries.len() as u64, value2: at, ..Reply::default() })
}

/// Where the next data at or after `at` begins: `at` itself where there is some. Cheap, unlike asking where it ends:
/// for that a file system in memory looks at every page.
pub(super) fn data_from(slot: &Slot, at: u64, len: u64) -> u64 {
    if slot.block {
        return at;
    }
    match rustix::fs::seek(&slot.device.file, SeekFrom::Data(at)) {
        Ok(data) => data,
        Err(rustix::io::Errno::NXIO) => len,
        Err(_) => at,
    }
}

/// Whether there is data at `at`, and where that ends.
fn run_at(slot: &Slot, at: u64, len: u64) -> (bool, u64) {
    if slot.block {
        return (true, len);
    }
    match rustix::fs::seek(&slot.device.file, SeekFrom::Data(at)) {
        Ok(data) if data > at => (false, data),
        Ok(_) => (true, rustix::fs::seek(&slot.device.file, SeekFrom::Hole(at)).unwrap_or(len)),
        Err(rustix::io::Errno::NXIO) => (false, len),
        Err(_) => (true, len),
    }
}
