//! Cutting requests into pieces that can be under way side by side, and making one answer of theirs.

use instar_abi::ring::{Op, Reply};

use super::check::Checked;
use super::exec::Outcome;
use super::table::Slot;

/// Bytes that are read at once.
const READ: u64 = 128 * 1024;
/// Bytes that are written at once: many file systems take one write to a file after the other, however small.
const WRITTEN: u64 = 1024 * 1024;
/// Bytes that are copied at once where writing is not what takes the time. Each thread has so much of its own.
const COPIED: u64 = 512 * 1024;
/// The same where the file server may do it.
const COPIED_AFAR: u64 = 16 << 20;
/// Bytes that are compared at once: both sides are read one after the other.
const COMPARED: u64 = 512 * 1024;

/// What is longer goes on as one: no command asks for so much. Together with [`DUE`] it bounds the pieces that there are.
const CUT_MAX: u64 = 32 << 20;

/// So many bytes are carried out before more is put off.
pub const DUE: u64 = 128 << 20;

/// Whether a request will have to wait for a device.
pub fn is_slow(request: &Checked<'_>) -> bool {
    request.moves() && request.len <= CUT_MAX && request.slots().any(Slot::is_slow)
}

/// Whether its devices have answered before.
pub fn answers(request: &Checked<'_>) -> bool {
    request.slots().all(|slot| slot.pace.answers())
}

/// Where the pieces of a request end, in bytes from its beginning; the last is its own end.
fn ends(request: &Checked<'_>) -> Vec<u64> {
    // Of a copy, pieces end where units of the target do, so that whole ones stay holes.
    let (size, first) = match request.op {
        Op::Read => (READ, request.offset),
        Op::Write => (WRITTEN, request.offset),
        Op::Compare => (COMPARED, request.offset),
        Op::Copy if overlaps(request) => return vec![request.len],
        Op::Copy if both_remote(request) => (COPIED_AFAR, request.offset2),
        Op::Copy => {
            let is_late = request.slot2.as_deref().is_some_and(Slot::is_slow);
            let size = if is_late { WRITTEN } else { COPIED };
            (size.max(request.arg.into()), request.offset2)
        }
        _ => return vec![request.len],
    };
    let mut end = size - first % size;
    let mut ends = Vec::new();
    while end < request.len {
        ends.push(end);
        end += size;
    }
    ends.push(request.len);
    ends
}

/// Whether a copy can be left to a file server.
fn both_remote(request: &Checked<'_>) -> bool {
    request.flags == 0 && request.slots().all(|slot| slot.remote && !slot.device.direct)
}

/// Whether a copy changes what it has still to read: then its order is what it means.
fn overlaps(request: &Checked<'_>) -> bool {
    let (Some(from), Some(to)) = (&request.slot, &request.slot2) else { return false };
    from.identity == to.identity && request.offset.abs_diff(request.offset2) < request.len
}

/// Adds the pieces of a request; returns how many there are.
pub fn cut<'m>(request: &Checked<'m>, pieces: &mut Vec<Checked<'m>>) -> usize {
    let ends = ends(request);
    let mut start = 0;
    for end in &ends {
        pieces.push(request.part(start, end - start));
        start = *end;
    }
    ends.len()
}

/// The answer to a request whose pieces came to that; `None`: one was not begun, because the run is over.
pub fn join(pieces: &[Checked<'_>], outcomes: &mut [Option<Outcome>]) -> Option<Reply> {
    let mut before = 0;
    let mut joined = Reply::default();
    for (piece, outcome) in pieces.iter().zip(outcomes) {
        match outcome.take()? {
            Ok(reply) => {
                joined = Reply { value: joined.value + reply.value, ..reply };
                // The ranges differ here.
                if piece.ends_with(&Ok(reply)) {
                    break;
                }
            }
            // Of a copy, how far it came is part of the answer.
            Err(reply) if piece.op == Op::Copy => return Some(Reply { value: before + reply.value, ..reply }),
            Err(reply) => return Some(reply),
        }
        before += piece.len;
    }
    Some(joined)
}
