//! What the processor (or the kernel below a process) has to stop.

use core::arch::asm;

use instar_abi::boot::BootInfo;
use instar_entry::RingMachine;

/// Reads a byte and gives it back as the status: coming back at all is the failure.
fn read(at: u64) -> u8 {
    // SAFETY: none: this is the attack. The sandbox is expected to end the guest here.
    unsafe { (at as *const u8).read_volatile() }
}

fn write(at: u64) -> u8 {
    // SAFETY: none: this is the attack. The sandbox is expected to end the guest here.
    unsafe { (at as *mut u8).write_volatile(0x90) };
    0
}

fn jump(to: u64) -> u8 {
    // SAFETY: none: this is the attack. The sandbox is expected to end the guest here.
    unsafe { core::mem::transmute::<u64, extern "C" fn()>(to)() };
    0
}

macro_rules! instruction {
    ($($(#[$doc:meta])* $name:ident: $text:literal;)+) => { $(
        $(#[$doc])*
        pub fn $name(_: &RingMachine, _: &BootInfo) -> u8 {
            // SAFETY: none: this is the attack. The sandbox is expected to end the guest here.
            unsafe { asm!($text, out("rax") _, out("rcx") _, out("rdx") _, out("rdi") _, out("rsi") _, out("r11") _) };
            0
        }
    )+ };
}

instruction! {
    /// getpid(2)
    syscall: "mov eax, 39; syscall";
    /// openat(AT_FDCWD, ...)
    syscall_open: "mov eax, 257; mov rdi, -100; mov rsi, rsp; xor edx, edx; syscall";
    /// write(0, stack, 2^32 + 1): the low half of the length is what the filter allows.
    syscall_long_write: "mov eax, 1; xor edi, edi; mov rsi, rsp; mov rdx, 0x100000001; syscall";
    /// The 32-bit system call gate.
    int80: "mov eax, 20; int 0x80";
    /// A debugger's breakpoint.
    breakpoint: "int3";
    /// Stops the processor.
    hlt: "hlt";
    /// Undefined.
    ud2: "ud2";
    /// A port that is not the doorbell.
    other_port: "mov edx, 0x80; out dx, al";
    /// The doorbell's port, the wrong way round.
    read_doorbell: "mov edx, 0x510; in al, dx";
    /// The page table register.
    load_cr3: "xor eax, eax; mov cr3, rax";
    /// Divides by zero.
    divide: "xor edx, edx; xor ecx, ecx; mov eax, 1; div ecx";
}

/// An address that nothing is mapped at.
pub fn read_outside(_: &RingMachine, boot: &BootInfo) -> u8 {
    read(boot.heap + boot.heap_len + (64 << 20))
}

/// Where the page tables are, were guest-physical addresses virtual ones.
pub fn read_page_tables(_: &RingMachine, _: &BootInfo) -> u8 {
    read(0x2000)
}

/// Where a host program has its stack and libraries.
pub fn read_host(_: &RingMachine, _: &BootInfo) -> u8 {
    let mut found = 0;
    for at in (0x7f00_0000_0000u64..0x7fff_ffff_0000).step_by(1 << 30) {
        found |= read(at);
    }
    found
}

/// Its own code.
pub fn write_text(_: &RingMachine, _: &BootInfo) -> u8 {
    write(ud2 as *const () as u64)
}

/// Its own constants.
pub fn write_rodata(_: &RingMachine, _: &BootInfo) -> u8 {
    write(crate::CASES.as_ptr() as u64)
}

/// The boot page.
pub fn write_boot(_: &RingMachine, boot: &BootInfo) -> u8 {
    write(core::ptr::from_ref(boot) as u64)
}

/// Instructions in the heap.
pub fn run_data(_: &RingMachine, _: &BootInfo) -> u8 {
    const RET: u8 = 0xc3;
    let code = alloc::vec![RET; 64];
    jump(core::hint::black_box(&code).as_ptr() as u64)
}

/// Instructions on the stack.
pub fn run_stack(_: &RingMachine, _: &BootInfo) -> u8 {
    const RET: u8 = 0xc3;
    let code = [RET; 64];
    jump(core::hint::black_box(&code).as_ptr() as u64)
}

/// Runs into the guard page.
#[allow(unconditional_recursion, clippy::only_used_in_recursion, reason = "that is the attack")]
pub fn stack_overflow(machine: &RingMachine, boot: &BootInfo) -> u8 {
    let frame = core::hint::black_box([0u8; 1024]);
    stack_overflow(machine, boot).wrapping_add(core::hint::black_box(&frame)[0])
}
