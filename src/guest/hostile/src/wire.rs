//! What the host's request checker has to stop.

use core::sync::atomic::{AtomicBool, Ordering};

use instar_abi::boot::BootInfo;
use instar_abi::ring::{Beside, FLAG_SKIP_ZERO, Op, Request, Role, Status};
use instar_entry::RingMachine;
use instar_image::machine::Report;

use crate::together;

/// The trial's devices: 0 may be read, 1 may be written, 2 is a new target. Together they grow by so much at most.
pub const READ_ONLY: u32 = 0;
pub const WRITABLE: u32 = 1;
pub const TARGET: u32 = 2;
pub const GROWTH_LIMIT: u64 = 1 << 20;
/// How long the files are before.
pub const LENGTH: u64 = 64 << 10;

pub fn request(op: Op) -> Request {
    Request { op: op as u16, ..Request::default() }
}

/// A request that is all right, to be spoilt.
pub fn good(op: Op, dev: u32, boot: &BootInfo) -> Request {
    Request { dev, len: 4096, buf: boot.heap + (1 << 20), ..request(op) }
}

/// Tells how the host answered.
pub fn tell(machine: &RingMachine, request: Request) -> u8 {
    let reply = machine.raw_call(request);
    u8::from(machine.emit("status", &u64::from(reply.status).into()).is_err())
}

/// Reads and writes as it should: the trial itself works.
pub fn well_behaved(machine: &RingMachine, boot: &BootInfo) -> u8 {
    machine.raw_call(good(Op::Read, READ_ONLY, boot));
    tell(machine, good(Op::Write, WRITABLE, boot))
}

pub fn bad_op(machine: &RingMachine, _: &BootInfo) -> u8 {
    tell(machine, Request { op: 999, ..Request::default() })
}

pub fn reserved(machine: &RingMachine, boot: &BootInfo) -> u8 {
    tell(machine, Request { reserved: 1, ..good(Op::Read, READ_ONLY, boot) })
}

pub fn bad_flags(machine: &RingMachine, boot: &BootInfo) -> u8 {
    tell(machine, Request { flags: 0x8000, ..good(Op::Read, READ_ONLY, boot) })
}

pub fn bad_device(machine: &RingMachine, boot: &BootInfo) -> u8 {
    tell(machine, good(Op::Read, u32::MAX, boot))
}

pub fn overflow(machine: &RingMachine, boot: &BootInfo) -> u8 {
    tell(machine, Request { offset: u64::MAX - 100, ..good(Op::Read, READ_ONLY, boot) })
}

/// A host address, as a process would have it.
pub fn buffer_outside(machine: &RingMachine, boot: &BootInfo) -> u8 {
    tell(machine, Request { buf: 0x7fff_0000_0000, ..good(Op::Read, READ_ONLY, boot) })
}

pub fn buffer_overlaps_end(machine: &RingMachine, boot: &BootInfo) -> u8 {
    tell(machine, Request { buf: boot.heap + boot.heap_len - 4095, ..good(Op::Read, READ_ONLY, boot) })
}

/// The ring itself is mapped and writable, but no place for data.
pub fn buffer_ring(machine: &RingMachine, boot: &BootInfo) -> u8 {
    tell(machine, Request { buf: boot.rings, ..good(Op::Read, READ_ONLY, boot) })
}

pub fn write_read_only(machine: &RingMachine, boot: &BootInfo) -> u8 {
    machine.raw_batch(&[
        Request { dev: READ_ONLY, len: 4096, ..request(Op::WriteZeroes) },
        Request { dev: READ_ONLY, len: 4096, ..request(Op::Discard) },
        Request { dev: READ_ONLY, len: 1, ..request(Op::SetLength) },
        Request { dev: READ_ONLY, len: 4096, ..request(Op::Allocate) },
    ]);
    tell(machine, good(Op::Write, READ_ONLY, boot))
}

pub fn copy_read_only(machine: &RingMachine, _: &BootInfo) -> u8 {
    tell(machine, Request { dev: WRITABLE, dev2: READ_ONLY, len: 4096, ..request(Op::Copy) })
}

pub fn growth(machine: &RingMachine, boot: &BootInfo) -> u8 {
    let end = LENGTH + GROWTH_LIMIT;
    let past = Request { offset: end - 4095, ..good(Op::Write, WRITABLE, boot) };
    machine.raw_batch(&[
        Request { dev2: WRITABLE, offset2: end, len: 4096, ..request(Op::Copy) },
        Request { dev2: WRITABLE, len: i64::MAX as u64, flags: FLAG_SKIP_ZERO, ..request(Op::Copy) },
        Request { dev: WRITABLE, offset: end, len: 1, ..request(Op::WriteZeroes) },
        Request { dev: WRITABLE, len: 1 << 40, ..request(Op::Allocate) },
    ]);
    tell(machine, past)
}

pub fn growth_length(machine: &RingMachine, _: &BootInfo) -> u8 {
    tell(machine, Request { dev: WRITABLE, len: 1 << 50, ..request(Op::SetLength) })
}

fn open(machine: &RingMachine, name: &[u8]) -> u8 {
    let name = name.to_vec();
    tell(
        machine,
        Request {
            buf: name.as_ptr() as u64,
            buf_len: name.len() as u64,
            arg: Role::Backing as u32,
            ..request(Op::OpenNamed)
        },
    )
}

pub fn open_outside(machine: &RingMachine, _: &BootInfo) -> u8 {
    open(machine, b"/etc/passwd")
}

pub fn open_absent(machine: &RingMachine, _: &BootInfo) -> u8 {
    open(machine, b"../../../../../../etc/there-is-no-such-file")
}

pub fn open_proc(machine: &RingMachine, _: &BootInfo) -> u8 {
    open(machine, b"/proc/self/mem")
}

pub fn open_sealed(machine: &RingMachine, _: &BootInfo) -> u8 {
    machine.raw_call(request(Op::Seal));
    open(machine, b"writable")
}

fn beside(machine: &RingMachine, request: Request) -> u8 {
    tell(machine, Request { op: Op::CreateBeside as u16, ..request })
}

/// A request that is all right, to be spoilt.
pub fn good_beside() -> Request {
    Request { dev: TARGET, arg: Beside::SplitSparse as u32, len: 1, ..request(Op::CreateBeside) }
}

/// It is made, may be written, and is never published.
pub fn beside_made(machine: &RingMachine, boot: &BootInfo) -> u8 {
    let made = machine.raw_call(good_beside());
    machine.raw_call(good(Op::Write, made.value as u32, boot));
    tell(machine, Request { dev: made.value as u32, len: GROWTH_LIMIT + 1, ..request(Op::SetLength) })
}

pub fn beside_kind(machine: &RingMachine, _: &BootInfo) -> u8 {
    beside(machine, Request { arg: 4, ..good_beside() })
}

pub fn beside_number(machine: &RingMachine, _: &BootInfo) -> u8 {
    for len in [0, 10_001, 1 << 32, i64::MAX as u64] {
        machine.raw_call(Request { len, ..good_beside() });
    }
    beside(machine, Request { arg: Beside::Flat as u32, len: 2, ..good_beside() })
}

/// No name can be sent along.
pub fn beside_name(machine: &RingMachine, boot: &BootInfo) -> u8 {
    beside(machine, Request { buf: boot.heap, buf_len: 8, ..good_beside() })
}

pub fn beside_twice(machine: &RingMachine, _: &BootInfo) -> u8 {
    machine.raw_call(good_beside());
    beside(machine, good_beside())
}

pub fn beside_source(machine: &RingMachine, _: &BootInfo) -> u8 {
    beside(machine, Request { dev: READ_ONLY, ..good_beside() })
}

pub fn beside_existing(machine: &RingMachine, _: &BootInfo) -> u8 {
    beside(machine, Request { dev: WRITABLE, ..good_beside() })
}

/// What was made has nothing beside it.
pub fn beside_beside(machine: &RingMachine, _: &BootInfo) -> u8 {
    let made = machine.raw_call(good_beside());
    beside(machine, Request { dev: made.value as u32, len: 2, ..good_beside() })
}

pub fn beside_sealed(machine: &RingMachine, _: &BootInfo) -> u8 {
    machine.raw_call(request(Op::Seal));
    beside(machine, good_beside())
}

/// All numbers of all kinds.
pub fn beside_many(machine: &RingMachine, _: &BootInfo) -> u8 {
    for kind in [Beside::SplitFlat, Beside::SplitSparse] {
        for number in 1..=1000 {
            machine.raw_call(Request { arg: kind as u32, len: number, ..good_beside() });
        }
    }
    beside(machine, Request { arg: Beside::Flat as u32, ..good_beside() })
}

pub fn batch_empty(machine: &RingMachine, _: &BootInfo) -> u8 {
    ring(machine, 0)
}

pub fn batch_huge(machine: &RingMachine, _: &BootInfo) -> u8 {
    ring(machine, 100_000)
}

fn ring(machine: &RingMachine, count: u32) -> u8 {
    // SAFETY: the count is a lie; the ring itself is this worker's own.
    unsafe { machine.raw_ring(count) };
    0
}

/// Worker 1 rewrites worker 0's requests all the time, between one that is all right and one that is not, in every
/// field that is checked.
pub fn race(machine: &RingMachine, boot: &BootInfo) -> u8 {
    const ROUNDS: u32 = 300;
    const BATCH: usize = 64;
    let over = AtomicBool::new(false);
    let fair = Request { offset: 4096, ..good(Op::Write, WRITABLE, boot) };
    let foul = [
        Request { dev: READ_ONLY, ..fair },
        Request { offset: 1 << 40, ..fair },
        Request { buf: 0x7fff_0000_0000, ..fair },
        Request { len: 1 << 40, ..fair },
        Request { op: Op::SetLength as u16, len: 1 << 40, offset: 0, buf: 0, ..fair },
    ];
    let slots = boot.rings as usize + core::mem::offset_of!(instar_abi::ring::Ring, requests);
    together(machine, &|worker| {
        if worker == 0 {
            for _ in 0..ROUNDS {
                machine.raw_batch(&[fair; BATCH]);
            }
            over.store(true, Ordering::Release);
        } else {
            let slots = slots as *mut Request;
            while !over.load(Ordering::Acquire) {
                for (slot, other) in (0..BATCH).zip(foul.iter().cycle()) {
                    // SAFETY: none: two workers write the same memory, which is the attack. It is mapped.
                    unsafe {
                        slots.add(slot).write_volatile(*other);
                        slots.add(slot).write_volatile(fair);
                    }
                }
            }
        }
    });
    u8::from(machine.emit("status", &u64::from(Status::Ok as u32).into()).is_err())
}
