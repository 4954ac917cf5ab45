//! What a limit has to stop.

use alloc::vec::Vec;

use instar_abi::boot::{BootInfo, DOORBELL_SYSCALL};
use instar_abi::ring::{Op, Request};
use instar_entry::RingMachine;
use instar_image::Value;
use instar_image::machine::Report;

use crate::together;

fn request(op: Op) -> Request {
    Request { op: op as u16, ..Request::default() }
}

/// An end in words.
pub fn panic(_: &RingMachine, _: &BootInfo) -> u8 {
    panic!("a bug that an image\nfound");
}

/// Computes for ever.
pub fn endless(_: &RingMachine, _: &BootInfo) -> u8 {
    loop {
        core::hint::spin_loop();
    }
}

/// Sleeps for ever.
pub fn sleep(machine: &RingMachine, _: &BootInfo) -> u8 {
    loop {
        machine.raw_call(request(Op::Wait));
    }
}

/// Takes memory for ever, and touches it.
pub fn allocate(_: &RingMachine, _: &BootInfo) -> u8 {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(core::hint::black_box(alloc::vec![1; 65536]));
    }
}

/// Asks for ever.
pub fn requests(machine: &RingMachine, _: &BootInfo) -> u8 {
    loop {
        machine.raw_batch(&[request(Op::Stat); 250]);
    }
}

/// Tells for ever.
pub fn results(machine: &RingMachine, _: &BootInfo) -> u8 {
    let text = alloc::vec![b'x'; 4096];
    loop {
        let _ = machine.emit("noise", &Value::from(text.clone()));
    }
}

/// A request that would keep the host busy for years.
pub fn long_compare(machine: &RingMachine, _: &BootInfo) -> u8 {
    let len = i64::MAX as u64;
    machine.raw_call(Request { len, ..request(Op::Compare) });
    machine.raw_call(Request { len, dev2: 1, flags: 1, ..request(Op::Copy) });
    loop {
        machine.raw_call(Request { len: 60 << 10, dev2: 0, ..request(Op::Compare) });
    }
}

/// Rings for ever and never listens.
pub fn flood(machine: &RingMachine, boot: &BootInfo) -> u8 {
    machine.raw_call(request(Op::Stat));
    loop {
        if boot.doorbell == DOORBELL_SYSCALL {
            // SAFETY: write(0, stack, 1), which the filter allows; only reads the stack.
            unsafe {
                core::arch::asm!(
                    "mov eax, 1", "xor edi, edi", "mov rsi, rsp", "mov edx, 1", "syscall",
                    out("rax") _, out("rdi") _, out("rsi") _, out("rdx") _, out("rcx") _, out("r11") _,
                );
            }
        } else {
            machine.raw_call(request(Op::Stat));
        }
    }
}

/// The second worker never comes back; the first one's end ends both.
pub fn worker_loop(machine: &RingMachine, _: &BootInfo) -> u8 {
    together(machine, &|worker| {
        if worker == 0 {
            machine.finish(7);
        }
        loop {
            core::hint::spin_loop();
        }
    });
    0
}

/// The second worker faults while the first one sleeps.
pub fn worker_fault(machine: &RingMachine, boot: &BootInfo) -> u8 {
    together(machine, &|worker| {
        if worker == 0 {
            sleep(machine, boot);
        }
        crate::processor::ud2(machine, boot);
    });
    0
}
