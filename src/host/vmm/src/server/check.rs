//! Whether a request may be carried out at all. Nothing here has an effect.

use std::sync::Arc;

use instar_abi::ring::{
    Beside, FLAG_ALLOCATE, FLAG_FULL, FLAG_SKIP_ZERO, FLAG_UNMAP, FLAG_WRITE, LOG_LINES, LOG_RECORDS, Op, Reply,
    Request, Role, Status,
};

use super::table::{Slot, Table};
use crate::memory::{HeapSlice, Shared};

/// Longest name that an image may ask for, in bytes.
const NAME_MAX: usize = 4096;
/// Longest log text, panic text or piece of a stream of records.
const TEXT_MAX: usize = 65536;
/// Largest file offset: a signed 64-bit number in the kernel.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// A request that keeps the rules.
#[derive(Debug)]
pub struct Checked<'a> {
    /// The operation.
    pub op: Op,
    /// Its flags, all of them known.
    pub flags: u16,
    /// The device's index.
    pub dev: u32,
    /// First device; absent only for operations that have none.
    pub slot: Option<Arc<Slot>>,
    /// Second device.
    pub slot2: Option<Arc<Slot>>,
    /// Offset in the first device; with `len` it does not overflow.
    pub offset: u64,
    /// Offset in the second device; with `len` it does not overflow.
    pub offset2: u64,
    /// Length in bytes.
    pub len: u64,
    /// The buffer, inside the heap; empty for operations that have none.
    pub buf: HeapSlice<'a>,
    /// Small argument, in the operation's range.
    pub arg: u32,
}

impl Checked<'_> {
    /// The device that the request may make longer, and up to where.
    pub fn grows_to(&self) -> Option<(&Slot, u64)> {
        let (slot, offset) = match self.op {
            Op::Copy => (self.slot2.as_deref()?, self.offset2),
            Op::Write | Op::WriteZeroes | Op::SetLength | Op::Allocate => (self.slot.as_deref()?, self.offset),
            _ => return None,
        };
        Some((slot, offset.saturating_add(self.len)))
    }

    /// Whether, that having come of it, what follows in the same request does not matter.
    pub fn ends_with(&self, outcome: &Result<Reply, Reply>) -> bool {
        outcome.is_err() || self.op == Op::Compare && outcome.is_ok_and(|reply| reply.value < self.len)
    }

    /// The `len` bytes of the request from `from` on.
    pub fn part(&self, from: u64, len: u64) -> Self {
        Self {
            slot: self.slot.clone(),
            slot2: self.slot2.clone(),
            offset: self.offset + from,
            offset2: self.offset2 + from,
            len,
            buf: self.buf.part(from as usize, len as usize),
            ..*self
        }
    }

    /// Its devices.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        [self.slot.as_deref(), self.slot2.as_deref()].into_iter().flatten()
    }

    /// Whether it is bulk data that takes the time.
    pub fn moves(&self) -> bool {
        matches!(self.op, Op::Read | Op::Write | Op::Copy | Op::Compare)
    }

    /// Whether the guest learns from it what is on its devices.
    pub fn gives(&self) -> bool {
        matches!(self.op, Op::Read | Op::Copy | Op::Extents | Op::Compare)
    }
}

/// What an operation has: everything else must be zero.
struct Shape {
    flags: u16,
    dev: bool,
    writes: bool,
    range: bool,
    buf: Buf,
    dev2: Option<bool>,
    arg: bool,
}

#[derive(PartialEq, Eq)]
enum Buf {
    None,
    /// As long as `len`.
    Len,
    /// As long as `buf_len`.
    Own,
}

const fn shape(op: Op) -> Shape {
    const NOTHING: Shape =
        Shape { flags: 0, dev: false, writes: false, range: false, buf: Buf::None, dev2: None, arg: false };
    const DEVICE: Shape = Shape { dev: true, ..NOTHING };
    const RANGE: Shape = Shape { range: true, ..DEVICE };
    const CHANGE: Shape = Shape { writes: true, ..RANGE };
    match op {
        Op::Read => Shape { buf: Buf::Len, ..RANGE },
        Op::Write => Shape { buf: Buf::Len, ..CHANGE },
        Op::Copy => Shape { flags: FLAG_SKIP_ZERO | FLAG_UNMAP, dev2: Some(true), arg: true, ..RANGE },
        Op::WriteZeroes => Shape { flags: FLAG_UNMAP | FLAG_ALLOCATE, ..CHANGE },
        Op::Discard => CHANGE,
        Op::Flush => Shape { writes: true, ..DEVICE },
        Op::SetLength => CHANGE,
        Op::CreateBeside => Shape { arg: true, ..CHANGE },
        Op::Allocate => Shape { flags: FLAG_FULL, ..CHANGE },
        Op::Extents => Shape { buf: Buf::Own, ..RANGE },
        Op::Compare => Shape { dev2: Some(false), ..RANGE },
        Op::OpenNamed => Shape { flags: FLAG_WRITE, buf: Buf::Own, arg: true, ..DEVICE },
        Op::Stat => DEVICE,
        Op::Progress => Shape { range: true, ..NOTHING },
        Op::Log | Op::Panic => Shape { buf: Buf::Own, arg: true, ..NOTHING },
        Op::Emit => Shape { buf: Buf::Own, ..NOTHING },
        Op::Seal | Op::Clock => NOTHING,
        Op::Wait => Shape { range: true, ..NOTHING },
        Op::Wake | Op::Finish => Shape { arg: true, ..NOTHING },
    }
}

/// Checks everything that can be checked without doing anything.
pub fn check<'a>(request: &Request, table: &Table, memory: &'a Shared) -> Result<Checked<'a>, Status> {
    let op = Op::from_wire(request.op).ok_or(Status::BadRequest)?;
    let shape = shape(op);
    let unused_set = request.reserved != 0
        || request.flags & !shape.flags != 0
        || (!shape.dev && request.dev != 0)
        || (!shape.range && (request.offset != 0 || request.len != 0))
        || (shape.buf == Buf::None && request.buf != 0)
        || (shape.buf != Buf::Own && request.buf_len != 0)
        || (shape.dev2.is_none() && (request.dev2 != 0 || request.offset2 != 0))
        || (!shape.arg && request.arg != 0);
    if unused_set || !arg_fits(op, request) {
        return Err(Status::BadRequest);
    }
    let device = |wanted: bool, index: u32| -> Result<Option<Arc<Slot>>, Status> {
        if wanted { table.get(index).map(Some).ok_or(Status::BadDevice) } else { Ok(None) }
    };
    let slot = device(shape.dev, request.dev)?;
    let slot2 = device(shape.dev2.is_some(), request.dev2)?;
    if op != Op::Progress {
        in_range(request.offset, request.len)?;
    }
    in_range(request.offset2, request.len)?;
    if shape.writes {
        may_write(slot.as_deref())?;
    }
    if shape.dev2 == Some(true) {
        may_write(slot2.as_deref())?;
    }
    let (addr, len) = match shape.buf {
        Buf::None => (memory.layout().heap, 0),
        Buf::Len => (request.buf, request.len),
        Buf::Own => (request.buf, request.buf_len),
    };
    let buf = memory.heap(addr, len).ok_or(Status::BadBuffer)?;
    let longest = match op {
        Op::OpenNamed => NAME_MAX,
        Op::Log | Op::Panic => TEXT_MAX,
        _ => usize::MAX,
    };
    if buf.len() > longest {
        return Err(Status::BadBuffer);
    }
    Ok(Checked {
        op,
        flags: request.flags,
        dev: request.dev,
        slot,
        slot2,
        offset: request.offset,
        offset2: request.offset2,
        len: request.len,
        buf,
        arg: request.arg,
    })
}

fn arg_fits(op: Op, request: &Request) -> bool {
    const UNIT: std::ops::RangeInclusive<u32> = 512..=2 << 20;
    let unit = |arg: u32| arg.is_power_of_two() && UNIT.contains(&arg);
    match op {
        Op::Copy if request.flags & FLAG_SKIP_ZERO == 0 => request.arg == 0 && request.flags & FLAG_UNMAP == 0,
        Op::Copy => request.arg == 0 || unit(request.arg),
        Op::OpenNamed => Role::from_wire(request.arg).is_some(),
        Op::SetLength | Op::Wait => request.offset == 0,
        Op::CreateBeside => request.offset == 0 && Beside::from_wire(request.arg).is_some_and(|k| k.has(request.len)),
        Op::Finish => request.arg <= 255,
        Op::Log => matches!(request.arg, LOG_LINES | LOG_RECORDS),
        Op::Panic => request.arg <= 1,
        _ => true,
    }
}

fn in_range(offset: u64, len: u64) -> Result<(), Status> {
    match offset.checked_add(len) {
        Some(end) if end <= OFFSET_MAX => Ok(()),
        _ => Err(Status::BadRange),
    }
}

/// Whether the device may be written.
fn may_write(slot: Option<&Slot>) -> Result<(), Status> {
    slot.and_then(Slot::growth_limit).map(|_| ()).ok_or(Status::ReadOnly)
}
