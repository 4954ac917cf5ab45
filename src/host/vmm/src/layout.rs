//! Where things lie in the guest's address space. The same in both backends.

use instar_abi::ring::Ring;

/// Size of a page in bytes.
pub const PAGE: u64 = 4096;
/// Start of the writable region. The guest program lies below it.
pub const RW_BASE: u64 = 0x4000_0000;
/// A worker's stack, without its guard page.
pub const STACK_LEN: u64 = 256 * 1024;
/// The part of the program that nearly every command runs through is shorter (see the guest's link.ld).
#[cfg(test)]
pub const OFTEN_MAX: u64 = 1 << 20;
const HUGE: u64 = 2 << 20;

/// The writable region: boot page, parameters, rings, program data, stacks, heap. Guest addresses, lengths in bytes.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The boot page.
    pub boot: u64,
    /// Parameters.
    pub params: u64,
    /// Their length.
    pub params_len: u64,
    /// Worker 0's ring.
    pub rings: u64,
    /// Distance between rings.
    pub ring_stride: u64,
    /// The program's writable data (which the guest sees at the program's own addresses).
    pub data: u64,
    /// A copy of the text that nearly every command runs through, for a virtual machine (which sees it at the program's
    /// own addresses and cannot write to it).
    pub often: u64,
    /// The stack area: for each worker a guard page, then the stack.
    pub stacks: u64,
    /// Distance between stacks.
    pub stack_stride: u64,
    /// The heap.
    pub heap: u64,
    /// Its length.
    pub heap_len: u64,
    /// Length of the whole region.
    pub len: u64,
    /// Workers.
    pub workers: u32,
}

impl Layout {
    /// The layout for so much memory in all; `None` if it is too little.
    #[must_use]
    pub fn new(workers: u32, params_len: u64, data_len: u64, often_len: u64, memory: u64) -> Option<Self> {
        const MEMORY_MAX: u64 = 64 << 30;
        let boot = RW_BASE;
        let params = boot + PAGE;
        let rings = params.checked_add(params_len)?.checked_next_multiple_of(PAGE)?;
        let ring_stride = (size_of::<Ring>() as u64).next_multiple_of(PAGE);
        let data = rings + ring_stride * u64::from(workers);
        let often = data.checked_add(data_len)?.checked_next_multiple_of(PAGE)?;
        let stacks = often.checked_add(often_len)?.checked_next_multiple_of(PAGE)?;
        let stack_stride = STACK_LEN + PAGE;
        // A guard page above the last stack, too.
        let heap = (stacks + stack_stride * u64::from(workers) + PAGE).next_multiple_of(HUGE);
        let end = RW_BASE.checked_add(memory.min(MEMORY_MAX))? / HUGE * HUGE;
        let heap_len = end.checked_sub(heap).filter(|len| *len >= HUGE)?;
        Some(Self {
            boot,
            params,
            params_len,
            rings,
            ring_stride,
            data,
            often,
            stacks,
            stack_stride,
            heap,
            heap_len,
            len: end - RW_BASE,
            workers,
        })
    }

    /// Lowest and highest address of worker `n`'s stack; the guard page lies below.
    #[must_use]
    pub fn stack(&self, worker: u32) -> (u64, u64) {
        let low = self.stacks + self.stack_stride * u64::from(worker) + PAGE;
        (low, low + STACK_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::GUEST_MEMORY_MIN;

    #[test]
    fn the_least_memory_is_enough_for_one_worker() {
        assert!(Layout::new(1, PAGE, PAGE, OFTEN_MAX, GUEST_MEMORY_MIN).is_some());
        assert!(Layout::new(1, PAGE, PAGE, OFTEN_MAX, GUEST_MEMORY_MIN - 1).is_none());
    }
}
