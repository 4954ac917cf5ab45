//! The last instructions of the host's in a child process: unmap everything that is not the guest's, install the
//! system call filter, clear the registers, jump. They run from a page of their own, because the code that wrote
//! that page is among what is unmapped.

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Where the page lies: below the writable region, above the program.
pub const STUB_ADDR: u64 = 0x3e00_0000;
/// Its length.
pub const STUB_LEN: u64 = 4096;

const CODE_AT: usize = 0;
const RANGES_AT: usize = 256;
const FILTER_AT: usize = 512;
const PROGRAM_AT: usize = 496;

core::arch::global_asm!(
    ".globl instar_stub_start, instar_stub_end",
    "instar_stub_start:",
    // r12: ranges, r13: filter program, r14: entry, r15: stack top, rbx: boot page, rbp: worker
    "2:",
    "mov rdi, [r12]",
    "mov rsi, [r12 + 8]",
    "add r12, 16",
    "test rsi, rsi",
    "jz 3f",
    "mov eax, 11", // munmap
    "syscall",
    "jmp 2b",
    "3:",
    "mov eax, 317", // seccomp(SECCOMP_SET_MODE_FILTER, 0, program)
    "mov edi, 1",
    "xor esi, esi",
    "mov rdx, r13",
    "syscall",
    "test rax, rax",
    "jz 4f",
    "mov eax, 231", // exit_group
    "mov edi, {failed}",
    "syscall",
    "4:",
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
    "instar_stub_end:",
    failed = const super::process::EXIT_FILTER,
);

unsafe extern "C" {
    static instar_stub_start: u8;
    static instar_stub_end: u8;
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
}

/// Writes the page and goes there; does not come back.
///
/// # Safety
/// Only in a child process that has nothing left to do: all but the ranges between `keep` (sorted, not
/// overlapping, [`STUB_ADDR`] among them) is unmapped.
pub unsafe fn leave(keep: &[(u64, u64)], entry: &Entry) -> ! {
    const LOWEST: u64 = 0x1_0000;
    const HIGHEST: u64 = 0x7fff_ffff_f000;
    // SAFETY: the page is mapped here for the purpose; everything written fits in it (the code is under 256 bytes,
    // there are few ranges, the filter has 16 instructions); the registers are set as the code expects.
    unsafe {
        let page = libc::mmap(
            STUB_ADDR as *mut libc::c_void,
            STUB_LEN as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
        .cast::<u8>();
        if page as u64 != STUB_ADDR {
            libc::_exit(super::process::EXIT_MAP);
        }
        let start = &raw const instar_stub_start;
        let len = (&raw const instar_stub_end).offset_from_unsigned(start);
        std::ptr::copy_nonoverlapping(start, page.add(CODE_AT), len);
        let mut range = page.add(RANGES_AT).cast::<[u64; 2]>();
        let mut from = LOWEST;
        for (start, end) in keep.iter().copied().chain([(HIGHEST, HIGHEST)]) {
            if start > from {
                range.write([from, start - from]);
                range = range.add(1);
            }
            from = end;
        }
        let filter = filter();
        std::ptr::copy_nonoverlapping(filter.as_ptr(), page.add(FILTER_AT).cast(), filter.len());
        let program = libc::sock_fprog { len: filter.len() as u16, filter: page.add(FILTER_AT).cast() };
        page.add(PROGRAM_AT).cast::<libc::sock_fprog>().write(program);
        libc::mprotect(page.cast(), STUB_LEN as usize, libc::PROT_READ | libc::PROT_EXEC);
        core::arch::asm!(
            "mov r12, {ranges}", "mov r13, {program}", "mov r14, {rip}", "mov r15, {rsp}",
            "mov rbx, [{rest}]", "mov rbp, [{rest} + 8]",
            "jmp {code}",
            ranges = in(reg) page.add(RANGES_AT), program = in(reg) page.add(PROGRAM_AT),
            rip = in(reg) entry.rip, rsp = in(reg) entry.rsp,
            rest = in(reg) [entry.boot, entry.worker].as_ptr(), code = in(reg) page.add(CODE_AT),
            options(noreturn)
        );
    }
}
