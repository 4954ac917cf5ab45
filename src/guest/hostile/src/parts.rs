//! What the open policy has to stop where something is written. The trial's device 1 may have one data file.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use instar_abi::boot::BootInfo;
use instar_abi::ring::{FLAG_WRITE, Op, Reply, Request, Role, Status};
use instar_entry::RingMachine;
use instar_image::machine::Report;

use crate::together;
use crate::wire::{GROWTH_LIMIT, LENGTH, READ_ONLY, TARGET, WRITABLE, good, good_beside, request, tell};

/// Asks for a file to be opened for writing.
pub fn open(machine: &RingMachine, dev: u32, role: Role, name: &[u8]) -> Reply {
    ask(machine, dev, role, name, FLAG_WRITE)
}

/// Asks for a file to be opened.
pub fn ask(machine: &RingMachine, dev: u32, role: Role, name: &[u8], flags: u16) -> Reply {
    let name = name.to_vec();
    machine.raw_call(Request {
        dev,
        flags,
        arg: role as u32,
        buf: name.as_ptr() as u64,
        buf_len: name.len() as u64,
        ..request(Op::OpenNamed)
    })
}

/// Tells how the host answered; what was opened is written to.
fn report(machine: &RingMachine, boot: &BootInfo, reply: Reply) -> u8 {
    if reply.status == Status::Ok as u32 {
        machine.raw_call(good(Op::Write, reply.value as u32, boot));
    }
    u8::from(machine.emit("status", &u64::from(reply.status).into()).is_err())
}

macro_rules! refused {
    ($($(#[$doc:meta])* $name:ident: $dev:expr, $role:expr, $file:literal;)+) => { $(
        $(#[$doc])*
        pub fn $name(machine: &RingMachine, boot: &BootInfo) -> u8 {
            report(machine, boot, open(machine, $dev, $role, $file))
        }
    )+ };
}

refused! {
    /// For a new target: it has no parts.
    fresh: TARGET, Role::DataFile, b"bystander";
    /// For an image that is only read.
    read_only: READ_ONLY, Role::DataFile, b"bystander";
    /// A kind that the command does not know of.
    extent: WRITABLE, Role::Extent, b"bystander";
    /// Only `commit` writes down.
    backing: WRITABLE, Role::Backing, b"bystander";
    outside: WRITABLE, Role::DataFile, b"../../../../../../../../etc/hostname";
    proc: WRITABLE, Role::DataFile, b"/proc/self/mem";
    /// The folder itself.
    folder: WRITABLE, Role::DataFile, b".";
    device: WRITABLE, Role::DataFile, b"/dev/loop0";
    /// What another device has.
    others: WRITABLE, Role::DataFile, b"read-only";
    /// What it is itself.
    itself: WRITABLE, Role::DataFile, b"writable";
}

/// After something of another image was read, in each way to read.
pub fn foreign(machine: &RingMachine, boot: &BootInfo) -> u8 {
    machine.raw_call(good(Op::Read, READ_ONLY, boot));
    report(machine, boot, open(machine, WRITABLE, Role::DataFile, b"bystander"))
}

pub fn foreign_copy(machine: &RingMachine, boot: &BootInfo) -> u8 {
    machine.raw_call(Request { dev: READ_ONLY, dev2: WRITABLE, len: 4096, ..request(Op::Copy) });
    report(machine, boot, open(machine, WRITABLE, Role::DataFile, b"bystander"))
}

pub fn foreign_compare(machine: &RingMachine, boot: &BootInfo) -> u8 {
    machine.raw_call(Request { dev: WRITABLE, dev2: READ_ONLY, len: 4096, ..request(Op::Compare) });
    report(machine, boot, open(machine, WRITABLE, Role::DataFile, b"bystander"))
}

/// The one that it may have is no reason for another.
pub fn second(machine: &RingMachine, boot: &BootInfo) -> u8 {
    open(machine, WRITABLE, Role::DataFile, b"part");
    report(machine, boot, open(machine, WRITABLE, Role::DataFile, b"bystander"))
}

/// A part has no parts.
pub fn of_part(machine: &RingMachine, boot: &BootInfo) -> u8 {
    let part = open(machine, WRITABLE, Role::DataFile, b"part");
    report(machine, boot, open(machine, part.value as u32, Role::DataFile, b"bystander"))
}

/// The same file again is the same device.
pub fn again(machine: &RingMachine, boot: &BootInfo) -> u8 {
    let first = open(machine, WRITABLE, Role::DataFile, b"part");
    let second = open(machine, WRITABLE, Role::DataFile, b"./part");
    if (first.status, second.status, first.value) != (0, 0, second.value) {
        return 1;
    }
    report(machine, boot, open(machine, WRITABLE, Role::DataFile, b"bystander"))
}

pub fn sealed(machine: &RingMachine, boot: &BootInfo) -> u8 {
    machine.raw_call(request(Op::Seal));
    report(machine, boot, open(machine, WRITABLE, Role::DataFile, b"bystander"))
}

/// All workers at once ask for different files: one of them gets one.
pub fn race(machine: &RingMachine, _: &BootInfo) -> u8 {
    let opened = AtomicU32::new(0);
    together(machine, &|worker| {
        for _ in 0..200 {
            let name: &[u8] = if worker == 0 { b"part" } else { b"part-too" };
            if open(machine, WRITABLE, Role::DataFile, name).status == Status::Ok as u32 {
                opened.fetch_or(1 << worker, Ordering::Relaxed);
            }
        }
    });
    let alone = opened.load(Ordering::Relaxed).count_ones() == 1;
    u8::from(machine.emit("status", &u64::from(!alone).into()).is_err())
}

/// What one file has grown by the others cannot.
pub fn growth_together(machine: &RingMachine, boot: &BootInfo) -> u8 {
    machine.raw_call(Request { dev: TARGET, len: GROWTH_LIMIT / 2, ..request(Op::SetLength) });
    let half = LENGTH + GROWTH_LIMIT / 2;
    machine.raw_call(Request { offset: half - 4096, ..good(Op::Write, WRITABLE, boot) });
    machine.raw_call(Request { dev: TARGET, ..request(Op::SetLength) });
    machine.raw_call(Request { dev: TARGET, len: GROWTH_LIMIT / 2 + 1, ..request(Op::SetLength) });
    tell(machine, Request { offset: half, ..good(Op::Write, WRITABLE, boot) })
}

/// Nor can those that are made beside a new one.
pub fn growth_beside(machine: &RingMachine, _: &BootInfo) -> u8 {
    let mut last = Reply::default();
    for len in 1..=8 {
        let made = machine.raw_call(Request { len, ..good_beside() });
        let quarter = GROWTH_LIMIT / 4;
        last = machine.raw_call(Request { dev: made.value as u32, len: quarter, ..request(Op::SetLength) });
    }
    u8::from(machine.emit("status", &u64::from(last.status).into()).is_err())
}

/// Two workers make two files longer at once, by a page at a time: all pages together are no more than the limit.
pub fn growth_race(machine: &RingMachine, _: &BootInfo) -> u8 {
    let pages = AtomicU32::new(0);
    together(machine, &|worker| {
        let (dev, start) = if worker == 0 { (WRITABLE, LENGTH) } else { (TARGET, 0) };
        let longer = (1..=256u64).map(|page| Request { dev, len: start + page * 4096, ..request(Op::SetLength) });
        for one in longer.collect::<Vec<_>>() {
            if machine.raw_call(one).status == Status::Ok as u32 {
                pages.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let held = u64::from(pages.load(Ordering::Relaxed)) * 4096 <= GROWTH_LIMIT;
    u8::from(machine.emit("status", &u64::from(!held).into()).is_err())
}
