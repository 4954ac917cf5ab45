//! Moving and scanning bulk data on the host's side. It sees that a block is all zeroes, or that two ranges
//! are equal; never what they mean.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::direct;
use super::exec::data_from;
use super::table::Slot;

/// Measured: less means more hand-overs of the target's lock between workers, more falls out of the second-level
/// cache between the read and the write.
const CHUNK: usize = 1024 * 1024;
/// Bytes that are compared at once: both sides fit into a processor's own cache.
const COMPARED: usize = 128 * 1024;
/// `copy_file_range` at once: a run of this length can be interrupted soon enough.
const RANGE_MAX: u64 = 64 << 20;

/// A thread's own buffer, made when it is first used, and as long as it has to be.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// So many bytes, aligned for `O_DIRECT`.
    fn take(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len + direct::ALIGNMENT {
            self.bytes = vec![0; len + direct::ALIGNMENT];
            self.start = self.bytes.as_ptr().align_offset(direct::ALIGNMENT);
        }
        &mut self.bytes[self.start..self.start + len]
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    // A block with anything in it mostly has it near the start.
    let (first, rest) = bytes.split_at(bytes.len().min(64));
    first.iter().all(|b| *b == 0) && {
        let (chunks, tail) = rest.as_chunks::<256>();
        chunks.iter().all(|c| c.iter().fold(0, |acc, b| acc | b) == 0) && tail.iter().all(|b| *b == 0)
    }
}

/// Reads all of `buf`; past the end of the device is zeroes.
fn fill(slot: &Slot, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() && !slot.is_hidden() {
        let rest = &mut buf[done..];
        let got = if slot.device.direct {
            direct::read(slot, offset + done as u64, rest)
        } else {
            slot.device.file.read_at(rest, offset + done as u64)
        };
        match got {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buf[done..].fill(0);
    slot.show_kept(offset, done, |kept| buf[..kept.len()].copy_from_slice(kept));
    Ok(())
}

fn put(slot: &Slot, bytes: &[u8], offset: u64) -> io::Result<()> {
    slot.reserve(offset + bytes.len() as u64);
    let kept = slot.keep(offset, bytes);
    let (bytes, offset) = (&bytes[kept..], offset + kept as u64);
    if slot.device.direct { direct::write(slot, offset, bytes) } else { slot.device.file.write_all_at(bytes, offset) }
}

/// The run may have been ended while a long request is at work: by a limit, or by another worker.
fn go_on(over: &AtomicBool) -> io::Result<()> {
    if over.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(libc::ECANCELED)) } else { Ok(()) }
}

/// A copy that went wrong: whoever asked for it has to know on which side, and where.
#[derive(Debug)]
pub struct Broken {
    pub error: io::Error,
    /// In the target; else in the source.
    pub in_target: bool,
    /// Bytes that were copied before.
    pub done: u64,
}

/// What becomes of zeroes that are copied, in units of so many bytes of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroes {
    /// They are written.
    Copied,
    /// The target reads as zeroes there.
    Skipped(usize),
    /// It is made to, without blocks if that can be.
    Unmapped(usize),
}

impl Zeroes {
    /// The units in which they are looked for.
    const fn unit(self) -> Option<usize> {
        match self {
            Self::Copied => None,
            Self::Skipped(unit) | Self::Unmapped(unit) => Some(unit),
        }
    }

    /// Sees to a range of zeroes that is not written.
    fn put(self, to: &Slot, offset: u64, len: u64, over: &AtomicBool) -> io::Result<()> {
        match self {
            Self::Unmapped(_) => super::exec::write_zeroes(to, (offset, len), true, false, over).map(drop),
            Self::Copied | Self::Skipped(_) => Ok(()),
        }
    }
}

/// Copies; returns how many bytes were written.
pub fn copy(
    buffer: &mut Buffer,
    from: (&Slot, u64),
    to: (&Slot, u64),
    len: u64,
    zeroes: Zeroes,
    over: &AtomicBool,
) -> Result<u64, Broken> {
    let source_len = from.0.len.load(Ordering::Acquire);
    let mut written = 0;
    let mut done = 0;
    if share(from, to, len) {
        return Ok(len);
    }
    while done < len {
        let broken = |in_target| move |error| Broken { error, in_target, done };
        go_on(over).map_err(broken(false))?;
        let at = from.1 + done;
        let mut piece = len - done;
        if zeroes != Zeroes::Copied {
            let data = if at >= source_len { u64::MAX } else { data_from(from.0, at, source_len) };
            if data > at {
                let hole = piece.min(if data >= source_len { u64::MAX } else { data - at });
                zeroes.put(to.0, to.1 + done, hole, over).map_err(broken(true))?;
                done += hole;
                continue;
            }
        } else if at < source_len {
            piece = piece.min(source_len - at);
        }
        let moved =
            if zeroes == Zeroes::Copied { copy_range(from, to, done, piece.min(RANGE_MAX), source_len) } else { 0 };
        if moved > 0 {
            (done, written) = (done + moved, written + moved);
            continue;
        }
        let chunk_len = (piece.min(CHUNK as u64)) as usize;
        let chunk = buffer.take(chunk_len);
        fill(from.0, chunk, at).map_err(broken(false))?;
        written += write_sparse(to, done, chunk, zeroes, over).map_err(broken(true))?;
        done += chunk_len as u64;
    }
    Ok(written)
}

/// Writes the runs of `chunk` that are not zeroes.
fn write_sparse(to: (&Slot, u64), done: u64, chunk: &[u8], zeroes: Zeroes, over: &AtomicBool) -> io::Result<u64> {
    let base = to.1 + done;
    let Some(unit) = zeroes.unit() else {
        put(to.0, chunk, base)?;
        return Ok(chunk.len() as u64);
    };
    // Units are the target's, so that whole blocks of it stay holes.
    let first = unit - (base % unit as u64) as usize;
    let mut written = 0;
    let mut run: Option<usize> = None;
    let mut at = 0;
    // Where the zeroes begin that nothing was done about yet.
    let mut blank = 0;
    while at < chunk.len() {
        let end = if at == 0 { first.min(chunk.len()) } else { (at + unit).min(chunk.len()) };
        match (run, is_zero(&chunk[at..end])) {
            (None, false) => {
                if at > blank {
                    zeroes.put(to.0, base + blank as u64, (at - blank) as u64, over)?;
                }
                run = Some(at);
            }
            (Some(start), true) => {
                put(to.0, &chunk[start..at], base + start as u64)?;
                written += (at - start) as u64;
                (run, blank) = (None, at);
            }
            _ => {}
        }
        at = end;
    }
    if let Some(start) = run {
        put(to.0, &chunk[start..], base + start as u64)?;
        written += (chunk.len() - start) as u64;
    } else if blank < chunk.len() {
        zeroes.put(to.0, base + blank as u64, (chunk.len() - blank) as u64, over)?;
    }
    Ok(written)
}

/// Shares the blocks where the file system can and the range is aligned.
pub fn share(from: (&Slot, u64), to: (&Slot, u64), len: u64) -> bool {
    const BLOCK: u64 = 4096;
    let source_len = from.0.len.load(Ordering::Acquire);
    let fits = from.1.is_multiple_of(BLOCK)
        && to.1.is_multiple_of(BLOCK)
        && len.is_multiple_of(BLOCK)
        && from.1 + len <= source_len;
    if !to.1.is_multiple_of(BLOCK) {
        // In such a target nothing lies on whole blocks: what is read for it is better written than copied.
        from.0.no_clone.store(true, Ordering::Relaxed);
    }
    if len == 0 || from.0.block || to.0.block || !fits || to.0.no_clone.load(Ordering::Relaxed) {
        return false;
    }
    to.0.reserve(to.1 + len);
    let range = FileCloneRange {
        src_fd: i64::from(std::os::fd::AsRawFd::as_raw_fd(&from.0.device.file)),
        src_offset: from.1,
        src_length: len,
        dest_offset: to.1,
    };
    let done = clone_file_range(&to.0.device.file, &range);
    if !done {
        // One refusal stands for all: file systems that cannot do it never can. The guest is told so of the source, too.
        for slot in [to.0, from.0] {
            slot.no_clone.store(true, Ordering::Relaxed);
        }
    }
    done
}

/// `struct file_clone_range` of ioctl_ficlonerange(2).
#[repr(C)]
struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

fn clone_file_range(to: &File, range: &FileCloneRange) -> bool {
    const FICLONERANGE: libc::c_ulong = 0x4020_940d;
    // SAFETY: the descriptor is open, and the structure is the one that this request takes.
    unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(to), FICLONERANGE, std::ptr::from_ref(range)) == 0 }
}

/// Copies inside the kernel as far as it will; 0 where it will not.
fn copy_range(from: (&Slot, u64), to: (&Slot, u64), done: u64, len: u64, source_len: u64) -> u64 {
    let local = !to.0.remote || !from.0.remote;
    if local || from.0.block || to.0.block || to.0.device.direct || from.0.device.direct {
        return 0;
    }
    let (mut read_at, mut write_at) = (from.1 + done, to.1 + done);
    let len = len.min(source_len.saturating_sub(read_at)) as usize;
    to.0.reserve(write_at + len as u64);
    rustix::fs::copy_file_range(&from.0.device.file, Some(&mut read_at), &to.0.device.file, Some(&mut write_at), len)
        .map_or(0, |n| n as u64)
}

/// Writes zeroes the plain way.
pub fn write_plain_zeroes(slot: &Slot, offset: u64, len: u64, over: &AtomicBool) -> io::Result<()> {
    #[repr(align(4096))]
    struct Zeroes([u8; 256 * 1024]);
    static ZEROES: Zeroes = Zeroes([0; 256 * 1024]);
    let mut done = 0;
    while done < len {
        go_on(over)?;
        let n = (len - done).min(ZEROES.0.len() as u64);
        put(slot, &ZEROES.0[..n as usize], offset + done)?;
        done += n;
    }
    Ok(())
}

/// How many leading bytes of two ranges are equal.
pub fn compare(
    buffer: &mut Buffer,
    left: (&Slot, u64),
    right: (&Slot, u64),
    len: u64,
    over: &AtomicBool,
) -> io::Result<u64> {
    let (one, other) = buffer.take(2 * COMPARED).split_at_mut(COMPARED);
    let rest = |(slot, offset): (&Slot, u64)| slot.len.load(Ordering::Acquire).saturating_sub(offset);
    // Past the end of both there are only zeroes.
    let both = rest(left).max(rest(right)).min(len);
    let mut done = 0;
    while done < both {
        go_on(over)?;
        let n = (both - done).min(COMPARED as u64) as usize;
        fill(left.0, &mut one[..n], left.1 + done)?;
        fill(right.0, &mut other[..n], right.1 + done)?;
        if one[..n] != other[..n] {
            return Ok(done + one.iter().zip(other.iter()).take_while(|(l, r)| l == r).count() as u64);
        }
        done += n as u64;
    }
    Ok(len)
}
