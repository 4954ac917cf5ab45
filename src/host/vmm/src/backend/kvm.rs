//! The guest in a virtual machine: long mode, ring 3 from the first instruction, no kernel, no interrupt table,
//! no device. Whatever it does that is not plain computing ends in a triple fault, which is an exit.

use std::io;

use instar_abi::boot::{CPU_AVX2, DOORBELL_PORT};
use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY, KVM_MP_STATE_RUNNABLE, kvm_enable_cap,
    kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::{Attend, Stop, words};
use crate::elf::Program;
use crate::layout::{PAGE, RW_BASE};
use crate::memory::Shared;
use crate::page_tables::{Access, PageTables, TABLES_GPA};

/// Guest-physical addresses of the other two memory slots.
const GPA_PROGRAM: u64 = 0x1000_0000;
const GPA_MEMORY: u64 = 0x1_0000_0000;
/// Where the TSS is mapped: for the processor only.
const VA_TSS: u64 = 0x3f00_0000;

/// Why there is no virtual machine, and what helps.
#[derive(Debug)]
pub struct Unavailable(pub String);

/// Opens /dev/kvm.
///
/// # Errors
/// In words, with what to do.
pub fn open() -> Result<Kvm, Unavailable> {
    Kvm::new().map_err(|error| {
        let errno = error.errno();
        Unavailable(format!("/dev/kvm: {}: {}", words(errno), super::access::advice(errno)))
    })
}

/// A machine with its processors, ready to run.
pub struct Machine {
    // Order matters: processors go before the machine, the machine before the memory it maps.
    vcpus: Vec<VcpuFd>,
    _vm: VmFd,
    _tables: PageTables,
}

/// The processor features that the guest may use, as boot information has them.
#[must_use]
pub fn cpu_bits() -> u64 {
    if crate::cpuid::has_avx2() { CPU_AVX2 } else { 0 }
}

fn kvm_error(what: &str) -> impl Fn(kvm_ioctls::Error) -> Unavailable {
    let what = what.to_string();
    move |error| Unavailable(format!("KVM cannot {what}: {}", words(error.errno())))
}

impl Machine {
    /// Builds the machine. `program` and `memory` must outlive it.
    ///
    /// # Errors
    /// In words.
    pub fn new(kvm: &Kvm, program: &Program<'_>, memory: &Shared) -> Result<Self, Unavailable> {
        let vm = kvm.create_vm().map_err(kvm_error("create a virtual machine"))?;
        give_local_controllers(&vm);
        let tables = map_all(program, memory).map_err(|e| Unavailable(format!("no memory for page tables: {e}")))?;
        let program_len = (program.file.len() as u64).next_multiple_of(PAGE);
        let slots = [
            (TABLES_GPA, tables.host_addr(), tables.len(), 0),
            (GPA_PROGRAM, program.file.as_ptr() as u64, program_len, KVM_MEM_READONLY),
            (GPA_MEMORY, memory.at(RW_BASE) as u64, memory.layout().len, 0),
        ];
        for (slot, (guest_phys_addr, userspace_addr, memory_size, flags)) in (0..).zip(slots) {
            let region = kvm_userspace_memory_region { slot, flags, guest_phys_addr, memory_size, userspace_addr };
            // SAFETY: each range is mapped in this process and outlives the machine, which this struct and its
            // maker's contract see to; the program's is never written, the others are meant to be.
            unsafe { vm.set_user_memory_region(region) }.map_err(kvm_error("map memory"))?;
        }
        let (short, mut whole) = (crate::cpuid::short_list(), None);
        let mut vcpus = Vec::new();
        for worker in 0..memory.layout().workers {
            let vcpu = vm.create_vcpu(u64::from(worker)).map_err(kvm_error("create a processor"))?;
            let prepare = |features: &CpuId| {
                vcpu.set_cpuid2(features).map_err(kvm_error("set the processor's features"))?;
                set_registers(&vcpu, program.entry, memory, worker, PageTables::root())
            };
            // A kernel that wants to see more than the guest needs gets its own list.
            if whole.is_some() || short.as_ref().is_none_or(|list| prepare(list).is_err()) {
                let list = match whole.take() {
                    Some(list) => list,
                    None => kvm
                        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                        .map_err(kvm_error("tell the processor's features"))?,
                };
                prepare(whole.insert(list))?;
            }
            if worker > 0 {
                // With a controller, all but the first wait for an interrupt to start them.
                let running = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
                vcpu.set_mp_state(running).map_err(kvm_error("start a processor"))?;
            }
            vcpus.push(vcpu);
        }
        Ok(Self { vcpus, _vm: vm, _tables: tables })
    }

    /// Gives each processor to `run` (on a thread of its own), and keeps the machine until all are back.
    pub fn take_vcpus(&mut self) -> Vec<Vcpu> {
        (0..).zip(self.vcpus.drain(..)).map(|(worker, fd)| Vcpu { worker, fd }).collect()
    }
}

/// Processors with an interrupt controller of their own, in the kernel. The guest cannot reach it (no mapping, no
/// privilege) and nothing ever interrupts, but a processor without one makes the kernel rewrite its own code twice,
/// on every processor of the computer, which takes longer than a short command. Where it is not to be had, nothing is lost.
fn give_local_controllers(vm: &VmFd) {
    let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    split.args[0] = 1;
    let _ = vm.enable_cap(&split);
}

/// The whole mapping: the program at its addresses, the memory region less its guard pages, the TSS for the processor.
fn map_all(program: &Program<'_>, memory: &Shared) -> io::Result<PageTables> {
    let layout = memory.layout();
    let mut tables = PageTables::new(layout.len)?;
    let gpa = |va: u64| GPA_MEMORY + (va - RW_BASE);
    let (text, often_len) = (program.text, program.often_len);
    tables.map(text.addr, gpa(layout.often), often_len, Access::Execute);
    let rest = (text.addr + often_len, GPA_PROGRAM + text.offset + often_len);
    tables.map(rest.0, rest.1, text.len - often_len, Access::Execute);
    tables.map(program.rodata.addr, GPA_PROGRAM + program.rodata.offset, program.rodata.len, Access::Read);
    tables.map(program.data.addr, gpa(layout.data), program.data.len, Access::Write);
    tables.map(layout.boot, gpa(layout.boot), PAGE, Access::Read);
    tables.map(layout.params, gpa(layout.params), layout.params_len, Access::Read);
    tables.map(layout.rings, gpa(layout.rings), layout.ring_stride * u64::from(layout.workers), Access::Write);
    for worker in 0..layout.workers {
        let (low, high) = layout.stack(worker);
        tables.map(low, gpa(low), high - low, Access::Write);
    }
    tables.map(layout.heap, gpa(layout.heap), layout.heap_len, Access::Write);
    tables.map_tss(VA_TSS, DOORBELL_PORT);
    Ok(tables)
}

const RPL3: u16 = 3;

fn set_registers(vcpu: &VcpuFd, entry: u64, memory: &Shared, worker: u32, root: u64) -> Result<(), Unavailable> {
    const CR0: u64 = 0x8001_0033; // PG WP NE ET MP PE
    const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 18; // PAE OSFXSR OSXMMEXCPT OSXSAVE
    const EFER: u64 = 1 << 8 | 1 << 10 | 1 << 11; // LME LMA NXE; not SCE: `syscall` is an undefined instruction
    let flat = kvm_segment { limit: 0xffff_ffff, present: 1, dpl: 3, s: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: 0x28 | RPL3, type_: 3, db: 1, ..flat };
    let code = kvm_segment { selector: 0x30 | RPL3, type_: 11, l: 1, ..flat };
    let tss = kvm_segment {
        base: VA_TSS,
        limit: PageTables::tss_limit(DOORBELL_PORT),
        selector: 0x40,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    let mut sregs: kvm_sregs = vcpu.get_sregs().map_err(kvm_error("read a processor's state"))?;
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = tss;
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
    (sregs.gdt.base, sregs.gdt.limit, sregs.idt.base, sregs.idt.limit) = (0, 0, 0, 0);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0, root, CR4, EFER);
    vcpu.set_sregs(&sregs).map_err(kvm_error("set a processor's state"))?;
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: if crate::cpuid::has_avx() { 7 } else { 3 } };
    vcpu.set_xcrs(&xcrs).map_err(kvm_error("set a processor's vector state"))?;
    let (_, top) = memory.layout().stack(worker);
    let regs = kvm_regs {
        rip: entry,
        rsp: top,
        rdi: memory.layout().boot,
        rsi: u64::from(worker),
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(kvm_error("set a processor's registers"))
}

/// What sort of exit it is, without what the guest put into it: that may be pages of its data.
fn kind(exit: &VcpuExit<'_>) -> &'static str {
    match exit {
        VcpuExit::IoIn(..) => "a read from a port",
        VcpuExit::IoOut(..) => "a write to a port",
        VcpuExit::MmioRead(..) => "a read from no memory",
        VcpuExit::MmioWrite(..) => "a write to no memory",
        VcpuExit::Hlt => "a halt",
        VcpuExit::Exception | VcpuExit::Debug(_) => "an exception",
        VcpuExit::FailEntry(..) => "a processor state that cannot be entered",
        VcpuExit::InternalError => "an instruction that KVM cannot emulate",
        VcpuExit::SystemEvent(..) => "a system event",
        _ => "an exit of an unknown kind",
    }
}

/// One processor.
pub struct Vcpu {
    /// Its worker's index.
    pub worker: u32,
    fd: VcpuFd,
}

impl Vcpu {
    /// Runs until the server, the clock or the guest itself ends it.
    pub fn run(mut self, attend: &dyn Attend) -> Stop {
        loop {
            let fault = match self.fd.run() {
                Ok(VcpuExit::IoOut(DOORBELL_PORT, _)) => {
                    if !attend.rang(self.worker) {
                        return Stop::Served;
                    }
                    continue;
                }
                Ok(VcpuExit::Shutdown) => "it did what its processor forbids (a fault without a handler)".to_string(),
                Ok(VcpuExit::Intr) => String::new(),
                Ok(exit) => format!("it left its bounds ({})", kind(&exit)),
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => String::new(),
                Err(error) => format!("the processor stopped: {}", words(error.errno())),
            };
            if !fault.is_empty() {
                return Stop::Fault(fault);
            }
            if !attend.ticked() {
                return Stop::Ended;
            }
        }
    }
}
