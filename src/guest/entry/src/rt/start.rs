//! From the first instruction to the machine.

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use instar_abi::ABI_VERSION;
use instar_abi::boot::{BOOT_MAGIC, BootInfo};

use crate::RingMachine;

// The host has set the stack and put the boot page's address in rdi and the worker's index in rsi.
core::arch::global_asm!(
    ".section .text._start, \"ax\", @progbits",
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "call {enter}",
    "ud2",
    ".text",
    enter = sym enter,
);

static BOOT: AtomicPtr<BootInfo> = AtomicPtr::new(core::ptr::null_mut());
static MACHINE: spin::Once<RingMachine> = spin::Once::new();
static READY: AtomicU32 = AtomicU32::new(0);

unsafe extern "Rust" {
    /// The program: each ELF defines one.
    safe fn guest_main(machine: &RingMachine) -> u8;
}

extern "C" fn enter(boot: *mut BootInfo, worker: u64) -> ! {
    // SAFETY: the host mapped the page and filled it before the first instruction, and never changes it.
    let info = unsafe { &*boot };
    if worker != 0 {
        // Worker 0 makes the machine; before that there is nothing that this one could do.
        while READY.load(Ordering::Acquire) == 0 {
            core::hint::spin_loop();
        }
        machine().serve_worker(worker as usize);
    }
    assert!(info.magic == BOOT_MAGIC && info.abi_version == ABI_VERSION, "the host speaks another version");
    BOOT.store(boot, Ordering::Release);
    super::allocator::give_heap(info.heap, info.heap_len);
    // SAFETY: the boot page is the host's, and `call_once` makes one machine.
    let machine = MACHINE.call_once(|| unsafe { RingMachine::new(info) });
    READY.store(1, Ordering::Release);
    let status = guest_main(machine);
    machine.finish(status);
}

/// The boot page, once the allocator stands.
#[must_use]
pub fn boot() -> Option<&'static BootInfo> {
    // SAFETY: null before `enter` stored it; afterwards the host's page, which never changes.
    unsafe { BOOT.load(Ordering::Acquire).as_ref() }
}

/// The machine.
#[must_use]
pub fn machine() -> &'static RingMachine {
    MACHINE.wait()
}

/// The parameters' bytes.
#[must_use]
pub fn params() -> &'static [u8] {
    // SAFETY: the host mapped so many bytes there, and nobody changes them.
    boot().map_or(&[], |b| unsafe { core::slice::from_raw_parts(b.params as *const u8, b.params_len as usize) })
}
