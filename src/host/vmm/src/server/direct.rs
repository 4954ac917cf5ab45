//! `O_DIRECT` files: they take whole, aligned blocks only, so what is not goes through an aligned buffer.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::PoisonError;

use super::table::Slot;
use crate::memory::HeapSlice;

/// What `O_DIRECT` needs everywhere, in bytes.
pub const ALIGNMENT: usize = 4096;
/// What it needs on many devices: a broken medium is read by it, where the device takes it.
const SECTOR: usize = 512;
/// Most bytes that one call moves through a buffer.
const PIECE: usize = 512 * 1024;

/// The whole blocks of `block` bytes around `len` bytes at `offset`: where they begin, and their length.
fn around(offset: u64, len: usize, block: u64) -> (u64, usize) {
    let start = offset / block * block;
    (start, (offset - start + len as u64).next_multiple_of(block) as usize)
}

fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
        && bytes.len().is_multiple_of(ALIGNMENT)
        && offset.is_multiple_of(ALIGNMENT as u64)
}

/// A buffer that is longer than asked for, and where in it the aligned part begins.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let bytes = vec![0; len + ALIGNMENT];
    let start = bytes.as_ptr().align_offset(ALIGNMENT);
    (bytes, start)
}

/// Reads up to `want` bytes at any alignment and hands them to `take`; returns how many there were.
fn read_around(slot: &Slot, offset: u64, want: usize, take: impl FnOnce(&[u8])) -> io::Result<usize> {
    let want = want.min(PIECE);
    let (mut start, len) = around(offset, want, ALIGNMENT as u64);
    let (mut bytes, at) = aligned(len);
    let mut got = slot.device.file.read_at(&mut bytes[at..at + len], start);
    if got.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EIO)) {
        // What lies around it may be what is broken.
        let (closer, len) = around(offset, want, SECTOR as u64);
        if let Ok(n) = slot.device.file.read_at(&mut bytes[at..at + len], closer) {
            (start, got) = (closer, Ok(n));
        }
    }
    let got = got?;
    let skip = (offset - start) as usize;
    let n = got.saturating_sub(skip).min(want);
    take(&bytes[at + skip..at + skip + n]);
    Ok(n)
}

/// Reads once, as pread(2) would, into the guest's memory.
pub fn read_to(slot: &Slot, offset: u64, to: HeapSlice<'_>) -> io::Result<usize> {
    read_around(slot, offset, to.len(), |bytes| to.copy_from(bytes))
}

/// Reads once, as pread(2) would.
pub fn read(slot: &Slot, offset: u64, to: &mut [u8]) -> io::Result<usize> {
    if is_aligned(to, offset) {
        return slot.device.file.read_at(to, offset);
    }
    read_around(slot, offset, to.len(), |bytes| to[..bytes.len()].copy_from_slice(bytes))
}

/// Writes all of `from`, at any alignment: blocks at its ends that are not whole are read first.
pub fn write(slot: &Slot, offset: u64, from: &[u8]) -> io::Result<()> {
    if is_aligned(from, offset) {
        return slot.device.file.write_all_at(from, offset);
    }
    let mut done = 0;
    while done < from.len() {
        // The first piece ends at a block's end, so that those after it are whole.
        let at = offset + done as u64;
        let n = (PIECE - (at % ALIGNMENT as u64) as usize).min(from.len() - done);
        write_piece(slot, at, &from[done..done + n])?;
        done += n;
    }
    Ok(())
}

fn write_piece(slot: &Slot, offset: u64, from: &[u8]) -> io::Result<()> {
    let (start, len) = around(offset, from.len(), ALIGNMENT as u64);
    let (mut bytes, at) = aligned(len);
    let bytes = &mut bytes[at..at + len];
    if start == offset && len == from.len() {
        bytes.copy_from_slice(from);
        return slot.device.file.write_all_at(bytes, start);
    }
    let _held = slot.edges.lock().unwrap_or_else(PoisonError::into_inner);
    let mut got = 0;
    while got < len {
        match slot.device.file.read_at(&mut bytes[got..], start + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // The end of the file is in the middle of a block: a further read would be unaligned.
        if !got.is_multiple_of(ALIGNMENT) {
            break;
        }
    }
    let skip = (offset - start) as usize;
    bytes[skip..skip + from.len()].copy_from_slice(from);
    slot.device.file.write_all_at(bytes, start)?;
    slot.cut_padding(start + len as u64)
}
