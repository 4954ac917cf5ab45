//! Attacks from inside of instar's own commands: the first image (device 0) begins with a line `hostile CASE WORD...`,
//! and the words are names of files. The exit status tells how many the guest got: [`NONE`] and as many more.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use instar_abi::boot::BootInfo;
use instar_abi::ops::{Failure, FailureKind, Record, Told};
use instar_abi::ring::{Beside, FLAG_WRITE, LOG_LINES, LOG_RECORDS, Op, Request, Role, Status};
use instar_entry::RingMachine;
use instar_image::machine::Report;

use crate::parts::ask;
use crate::together;
use crate::wire::{good, request};

/// Exit status of a guest that got nothing.
const NONE: u32 = 100;
const LINE: u64 = 4096;
const ROLES: [Role; 3] = [Role::DataFile, Role::Extent, Role::Backing];

/// The line, if there is one.
pub fn first_line(machine: &RingMachine, _: &BootInfo) -> String {
    let mut line = alloc::vec![0u8; LINE as usize];
    machine.raw_call(Request { len: LINE, buf: line.as_mut_ptr() as u64, ..request(Op::Read) });
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    String::from_utf8_lossy(line.get(..end).unwrap_or_default()).into_owned()
}

/// The case that a line names.
pub fn case_of(line: &str) -> Option<&str> {
    line.strip_prefix("hostile ")?.split(' ').next()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ').skip(2)
}

fn devices(machine: &RingMachine) -> u32 {
    let known = |dev: &u32| machine.raw_call(Request { dev: *dev, ..request(Op::Stat) }).status == Status::Ok as u32;
    (0..64).take_while(known).count() as u32
}

/// Writes to what it got.
fn overwrite(machine: &RingMachine, dev: u32) -> bool {
    let bytes = alloc::vec![b'X'; 4096];
    let buf = bytes.as_ptr() as u64;
    machine.raw_call(Request { dev, len: 4096, buf, ..request(Op::Write) }).status == Status::Ok as u32
}

/// By every device, in every role, every file.
pub fn write(machine: &RingMachine, boot: &BootInfo) -> u8 {
    let line = first_line(machine, boot);
    let own = devices(machine);
    let mut got = Vec::new();
    for round in 0..2 {
        for dev in 0..own + got.len() as u32 {
            for (role, name) in ROLES.iter().flat_map(|role| words(&line).map(move |name| (*role, name))) {
                let reply = ask(machine, dev, role, name.as_bytes(), FLAG_WRITE);
                if reply.status == Status::Ok as u32 && !got.contains(&reply.value) {
                    got.push(reply.value);
                }
            }
        }
        // What may be read is read: it may not be written after that either.
        if round == 0 {
            (0..own).for_each(|dev| {
                machine.raw_call(good(Op::Read, dev, boot));
            });
        }
    }
    let written = got.iter().filter(|dev| overwrite(machine, **dev as u32)).count() as u32;
    (NONE + written) as u8
}

/// All workers at once, each another file.
pub fn write_race(machine: &RingMachine, boot: &BootInfo) -> u8 {
    let line = first_line(machine, boot);
    let names: Vec<&str> = words(&line).collect();
    let got = AtomicU32::new(0);
    together(machine, &|worker| {
        let Some(name) = names.get(worker) else { return };
        for _ in 0..50 {
            for role in ROLES {
                let reply = ask(machine, 0, role, name.as_bytes(), FLAG_WRITE);
                if reply.status == Status::Ok as u32 && overwrite(machine, reply.value as u32) {
                    got.fetch_or(1 << worker, Ordering::Relaxed);
                }
            }
        }
    });
    (NONE + got.load(Ordering::Relaxed).count_ones()) as u8
}

/// Reads every file, by every device and in every role; copies what it got to where it may write.
pub fn read(machine: &RingMachine, boot: &BootInfo) -> u8 {
    let line = first_line(machine, boot);
    let own = devices(machine);
    let mut got = Vec::new();
    for dev in 0..own {
        for (role, name) in ROLES.iter().flat_map(|role| words(&line).map(move |name| (*role, name))) {
            let reply = ask(machine, dev, role, name.as_bytes(), 0);
            if reply.status == Status::Ok as u32 && !got.contains(&reply.value) {
                got.push(reply.value);
            }
        }
    }
    for (from, to) in got.iter().flat_map(|from| (0..own).map(move |to| (*from, to))) {
        machine.raw_call(Request { dev: from as u32, dev2: to, len: 4096, ..request(Op::Copy) });
    }
    (NONE + got.len() as u32) as u8
}

/// Files beside the others: of every kind, three of those that there are more of.
fn beside(machine: &RingMachine) -> Vec<u32> {
    let kinds = [(Beside::Flat, 1), (Beside::SplitFlat, 3), (Beside::SplitSparse, 3)];
    let wanted = kinds.iter().flat_map(|(kind, most)| (1..=*most).map(move |number| (*kind as u32, number)));
    let mut made = Vec::new();
    for (dev, (arg, len)) in (0..devices(machine)).flat_map(|dev| wanted.clone().map(move |one| (dev, one))) {
        let reply = machine.raw_call(Request { dev, arg, len, ..request(Op::CreateBeside) });
        if reply.status == Status::Ok as u32 {
            made.push(reply.value as u32);
        }
    }
    made
}

/// Makes files, and fails.
pub fn make(machine: &RingMachine, _: &BootInfo) -> u8 {
    (NONE + beside(machine).iter().filter(|dev| overwrite(machine, **dev)).count() as u32) as u8
}

/// Makes files, and ends as if all were well.
pub fn publish(machine: &RingMachine, _: &BootInfo) -> u8 {
    beside(machine);
    0
}

/// Says what would confuse a terminal, in each way to say something.
pub fn print(machine: &RingMachine, _: &BootInfo) -> u8 {
    let text = b"\x1b[2J\x1b]0;title\x07\x9b31m\rgone\x08\x7f\n".to_vec();
    let (buf, buf_len) = (text.as_ptr() as u64, text.len() as u64);
    for arg in [0, LOG_LINES, LOG_RECORDS] {
        machine.raw_call(Request { arg, buf, buf_len, ..request(Op::Log) });
    }
    let (hint, earlier) = (Some(text.clone()), Some(text.clone()));
    let error = Failure { message: text.clone(), kind: FailureKind::Usage, hint, earlier };
    let told = Told { error: Some(error), warnings: alloc::vec![text.clone()], guessed_raw: alloc::vec![text] };
    for (key, value) in told.into_entries() {
        let _ = machine.emit(&key, &value);
    }
    1
}

/// Makes everything as long as it may, a piece at a time: the exit status is the number of pieces.
pub fn grow(machine: &RingMachine, _: &BootInfo) -> u8 {
    const PIECE: u64 = 256 << 10;
    const MOST: u64 = 100;
    let own = devices(machine);
    let mut all: Vec<u32> = (0..own).collect();
    for (dev, number) in (0..own).flat_map(|dev| (1..=20).map(move |number| (dev, number))) {
        let beside = Request { dev, arg: Beside::SplitSparse as u32, len: number, ..request(Op::CreateBeside) };
        let reply = machine.raw_call(beside);
        if reply.status == Status::Ok as u32 {
            all.push(reply.value as u32);
        }
    }
    let mut pieces = 0;
    for dev in all {
        let start = machine.raw_call(Request { dev, ..request(Op::Stat) }).value;
        let longer = (1..=MOST).map(|n| Request { dev, len: start + n * PIECE, ..request(Op::SetLength) });
        pieces += longer.take_while(|one| machine.raw_call(*one).status == Status::Ok as u32).count();
    }
    (NONE + pieces as u32).min(255) as u8
}
