//! The ring client: fills a worker's ring, rings the doorbell, hands back the replies.

use instar_abi::boot::{BootInfo, DOORBELL_SYSCALL};
use instar_abi::ring::{BATCH_MAX, Reply, Request, Ring};

/// A worker's end of the wire.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    ring: *mut Ring,
    doorbell: u32,
}

// SAFETY: every worker has a client of its own for a ring of its own; the host is the only other party.
unsafe impl Send for Client {}
// SAFETY: as above; a client is reached through its worker's slot only.
unsafe impl Sync for Client {}

impl Client {
    /// The client of worker `worker`.
    ///
    /// # Safety
    /// `boot` is the boot page that the host made, and only worker `worker` uses the result.
    #[must_use]
    pub unsafe fn new(boot: &BootInfo, worker: usize) -> Self {
        let at = boot.rings as usize + worker * boot.ring_stride as usize;
        Self { ring: at as *mut Ring, doorbell: boot.doorbell }
    }

    /// Submits up to [`BATCH_MAX`] requests and gives each reply to `done`, in order.
    pub fn batch(&self, requests: &[Request], mut done: impl FnMut(usize, Reply)) {
        debug_assert!(requests.len() <= BATCH_MAX);
        // SAFETY: the ring is mapped, aligned and this worker's own until the doorbell; the host writes the
        // replies before the doorbell returns. Volatile, because the compiler must not reorder around it.
        unsafe {
            let slots = (&raw mut (*self.ring).requests).cast::<Request>();
            for (i, request) in requests.iter().enumerate() {
                slots.add(i).write_volatile(*request);
            }
            self.ring(requests.len() as u32);
            let replies = (&raw const (*self.ring).replies).cast::<Reply>();
            for i in 0..requests.len() {
                done(i, replies.add(i).read_volatile());
            }
        }
    }

    /// Says that the ring holds `count` requests, and rings.
    ///
    /// # Safety
    /// Only in the sandbox, where the doorbell is one.
    pub unsafe fn ring(&self, count: u32) {
        // SAFETY: the ring is mapped and this worker's own; for the doorbell, the caller's promise.
        unsafe {
            (&raw mut (*self.ring).count).write_volatile(count);
            doorbell(self.doorbell);
        }
    }

    /// Submits one request.
    pub fn one(&self, request: Request) -> Reply {
        let mut reply = Reply::default();
        self.batch(&[request], |_, r| reply = r);
        reply
    }
}

/// Asks the host to serve the ring, and returns when it has.
///
/// # Safety
/// Only in the sandbox: anywhere else the instruction faults or means something else.
unsafe fn doorbell(kind: u32) {
    if kind == DOORBELL_SYSCALL {
        let byte = 0u8;
        // SAFETY: write(0, &byte, 1), then read(0, &byte, 1): the two calls that the filter allows. The byte is
        // on this stack, which the kernel may write. Where one of them is denied by somebody else's filter, nobody would ever
        // answer, or what was there before would be taken for an answer: exit_group then.
        unsafe {
            core::arch::asm!(
                "mov eax, 1", "xor edi, edi", "mov edx, 1", "syscall",
                "cmp rax, 1", "jne 2f",
                "xor eax, eax", "xor edi, edi", "mov edx, 1", "syscall",
                "cmp rax, 1", "je 3f",
                "2:", "mov eax, 231", "mov edi, {denied}", "syscall", "ud2",
                "3:",
                denied = const instar_abi::boot::DOORBELL_DENIED,
                in("rsi") &raw const byte,
                out("rax") _, out("rdi") _, out("rdx") _, out("rcx") _, out("r11") _,
                options(nostack)
            );
        }
    } else {
        // SAFETY: the host's TSS lets this one port through; the exit is the host's cue.
        unsafe {
            core::arch::asm!("out dx, al", in("dx") instar_abi::boot::DOORBELL_PORT, in("al") 0u8, options(nostack));
        }
    }
}
