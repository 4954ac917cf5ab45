//! The last instructions of the host's in a child process: unmap everything that is not the guest's, install the
//! system call filter, clear the registers, jump. They are a page of this executable's own, moved to where it stays when
//! the code that leads there is unmapped: no page is made executable for it. Whatever fails ends the process.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

use super::process::Step;
use super::ranges::Range;
use crate::layout::PAGE;

/// Where its code lies: below the writable region, above the program.
pub const CODE_ADDR: u64 = 0x3e00_0000;
/// Where its data lies.
const DATA_ADDR: u64 = CODE_ADDR + PAGE;
const DATA_LEN: u64 = 2 * PAGE;
/// The end of both.
pub const END_ADDR: u64 = DATA_ADDR + DATA_LEN;

/// Parts of the data, which begins with the ranges (24 bytes each, the last one empty).
const RANGES_MAX: usize = 64;
const PROGRAM_AT: usize = 2048;
const FILTER_AT: usize = 2064;
/// An area as `xrstor` reads it, all components in their first state. It has a page of its own: some processors (AMD's
/// Zen 5) look at all the bytes that the components would have (2,688 with AVX-512), stored or not.
const VECTORS_AT: usize = PAGE as usize;
const _: () = assert!(VECTORS_AT + 2688 <= DATA_LEN as usize);
const MXCSR_AT: usize = VECTORS_AT + 24;
const MXCSR: u32 = 0x1f80;

core::arch::global_asm!(
    ".text",
    ".balign 4096, 0xcc",
    ".globl instar_stub",
    "instar_stub:",
    // r12: data, r13: it knows xrstor, r14: entry, r15: stack top, rbx: boot page, rbp: worker
    "mov r8, r12",
    "2:",
    "mov rdi, [r8]",
    "mov rsi, [r8 + 8]",
    "test rsi, rsi",
    "jz 5f",
    "mov eax, 11", // munmap
    "syscall",
    "test rax, rax",
    "jz 4f",
    "cmp rax, -1", // EPERM: it is sealed; what the kernel itself sealed may stay
    "jne 3f",
    "cmp qword ptr [r8 + 16], 0",
    "jne 4f",
    "3:",
    "mov edi, {unmap}",
    "jmp 9f",
    "4:",
    "add r8, 24",
    "jmp 2b",
    "5:",
    "mov eax, 158", // arch_prctl(ARCH_SET_FS, 0)
    "mov edi, 0x1002",
    "xor esi, esi",
    "syscall",
    "mov edi, {rights}",
    "test rax, rax",
    "jnz 9f",
    "mov eax, 317", // seccomp(SECCOMP_SET_MODE_FILTER, 0, program)
    "mov edi, 1",
    "xor esi, esi",
    "lea rdx, [r12 + {program}]",
    "syscall",
    "mov edi, {filter}",
    "test rax, rax",
    "jz 6f",
    "9:",
    "mov eax, 231", // exit_group
    "syscall",
    "ud2",
    // No vector register keeps what the host last worked on.
    "6:",
    "test r13, r13",
    "jz 7f",
    "mov eax, 0xe7", // x87, SSE, AVX, AVX-512
    "xor edx, edx",
    "xrstor [r12 + {vectors}]",
    "jmp 8f",
    "7:",
    "fxrstor [r12 + {vectors}]",
    "8:",
    "mov rsp, r15",
    "mov rdi, rbx",
    "mov rsi, rbp",
    "mov r11, r14",
    "xor eax, eax",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "xor edx, edx",
    "xor ebp, ebp",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "xor r15d, r15d",
    "jmp r11",
    ".balign 4096, 0xcc",
    unmap = const Step::Unmap as i32,
    rights = const Step::Rights as i32,
    filter = const Step::Filter as i32,
    program = const PROGRAM_AT,
    vectors = const VECTORS_AT,
);

unsafe extern "C" {
    static instar_stub: u8;
}

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn unless_equal(k: u32, skip: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: 0, jf: skip, k }
}

/// Everything that a guest process may ask of the kernel: one byte to or from its doorbell, and to be no more.
/// Whatever else it asks kills it.
fn filter() -> [sock_filter; 16] {
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    const FD: u32 = 16;
    const COUNT: u32 = 32;
    const COUNT_HIGH: u32 = 36;
    let load = |at| statement(BPF_LD | BPF_W | BPF_ABS, at);
    [
        load(ARCH),
        unless_equal(AUDIT_ARCH_X86_64, 13),
        load(NUMBER),
        unless_equal(libc::SYS_exit_group as u32, 1),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW),
        unless_equal(libc::SYS_read as u32, 1),
        sock_filter { code: (BPF_JMP | libc::BPF_JA) as u16, jt: 0, jf: 0, k: 1 },
        unless_equal(libc::SYS_write as u32, 7),
        load(FD),
        unless_equal(instar_abi::boot::DOORBELL_FD, 5),
        load(COUNT),
        unless_equal(1, 3),
        load(COUNT_HIGH),
        unless_equal(0, 1),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

/// What the jump into the guest needs.
pub struct Entry {
    /// First instruction.
    pub rip: u64,
    /// Stack top.
    pub rsp: u64,
    /// Boot page.
    pub boot: u64,
    /// Worker.
    pub worker: u64,
    /// The processor has `xrstor`, switched on.
    pub xsave: bool,
}

/// Moves the code to its place and writes the data. `false`: the kernel does not let it, or there are too many ranges.
///
/// # Safety
/// Only in a fresh child, which has nothing at these addresses.
pub unsafe fn prepare(unmap: &[Range]) -> bool {
    if unmap.len() >= RANGES_MAX {
        return false;
    }
    // SAFETY: the code is alone in its page; the data's pages are mapped here for the purpose; all that is written fits:
    // fewer than RANGES_MAX ranges of 24 bytes end before PROGRAM_AT, 16 instructions before VECTORS_AT.
    unsafe {
        let code = (&raw const instar_stub).cast_mut().cast::<libc::c_void>();
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let moved = libc::mremap(code, PAGE as usize, PAGE as usize, flags, CODE_ADDR as *mut libc::c_void);
        if moved as u64 != CODE_ADDR {
            return false;
        }
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let at = DATA_ADDR as *mut libc::c_void;
        let page = libc::mmap(at, DATA_LEN as usize, rights, flags | libc::MAP_FIXED, -1, 0).cast::<u8>();
        if page as u64 != DATA_ADDR {
            return false;
        }
        for (index, range) in unmap.iter().enumerate() {
            let words = [range.start, range.end - range.start, u64::from(range.may_stay)];
            page.cast::<[u64; 3]>().add(index).write(words);
        }
        let filter = filter();
        std::ptr::copy_nonoverlapping(filter.as_ptr(), page.add(FILTER_AT).cast(), filter.len());
        let program = libc::sock_fprog { len: filter.len() as u16, filter: page.add(FILTER_AT).cast() };
        page.add(PROGRAM_AT).cast::<libc::sock_fprog>().write(program);
        page.add(MXCSR_AT).cast::<u32>().write(MXCSR);
        libc::mprotect(page.cast(), DATA_LEN as usize, libc::PROT_READ) == 0
    }
}

/// Goes to the stub; does not come back.
///
/// # Safety
/// Only in a child that has nothing left to do, all of it [`prepare`]d.
pub unsafe fn leave(entry: &Entry) -> ! {
    let xrstor = u64::from(entry.xsave);
    // SAFETY: the registers are set as the code expects.
    unsafe {
        core::arch::asm!(
            "mov r12, {data}", "mov r13, {xrstor}", "mov r14, {rip}", "mov r15, {rsp}",
            "mov rbx, [{rest}]", "mov rbp, [{rest} + 8]",
            "jmp {code}",
            data = in(reg) DATA_ADDR, xrstor = in(reg) xrstor,
            rip = in(reg) entry.rip, rsp = in(reg) entry.rsp,
            rest = in(reg) [entry.boot, entry.worker].as_ptr(), code = in(reg) CODE_ADDR,
            options(noreturn)
        );
    }
}
