//! Which features the processor has, and which of them the guest sees: the few that its code asks for.
//!
//! The kernel's own list of everything that it could offer takes longer to make than the machine itself.

use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::sync::LazyLock;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// A leaf, its index, and what is let through of eax, ebx, ecx and edx.
struct Leaf {
    leaf: u32,
    index: Option<u32>,
    mask: [u32; 4],
}

const ALL: u32 = u32::MAX;
const fn bit(n: u32) -> u32 {
    1 << n
}

/// (AMD64 Architecture Programmer's Manual volume 3, appendix E.)
const LEAVES: &[Leaf] = &[
    // Highest leaf and the vendor.
    Leaf { leaf: 0, index: None, mask: [ALL; 4] },
    // Model; SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND; up to SSE2.
    Leaf {
        leaf: 1,
        index: None,
        mask: [
            ALL,
            0xff00,
            bit(0)
                | bit(1)
                | bit(9)
                | bit(12)
                | bit(13)
                | bit(19)
                | bit(20)
                | bit(22)
                | bit(23)
                | bit(25)
                | bit(26)
                | bit(28)
                | bit(29)
                | bit(30),
            0x0781_abff,
        ],
    },
    // BMI1, AVX2, BMI2, fast string moves, SHA; VAES.
    Leaf { leaf: 7, index: Some(0), mask: [0, bit(3) | bit(5) | bit(8) | bit(9) | bit(29), bit(9), bit(4)] },
    // Which vector state there is: x87, SSE, AVX.
    Leaf { leaf: 13, index: Some(0), mask: [7, ALL, ALL, 0] },
    Leaf { leaf: 0x8000_0000, index: None, mask: [ALL; 4] },
    // LAHF, LZCNT; NX, long mode.
    Leaf { leaf: 0x8000_0001, index: None, mask: [0, 0, bit(0) | bit(5), bit(20) | bit(29)] },
    // Widths of addresses.
    Leaf { leaf: 0x8000_0008, index: None, mask: [0xffff, 0, 0, 0] },
];

/// The answers to [`LEAVES`]. Where this machine is itself virtual each question leaves it, and takes some microseconds:
/// none is asked twice.
static ANSWERS: LazyLock<Vec<Option<CpuidResult>>> = LazyLock::new(|| {
    let mut highest = [0; 2];
    let ask = |leaf: &Leaf| {
        let half = usize::from(leaf.leaf >= EXTENDED);
        let is_first = leaf.leaf == 0 || leaf.leaf == EXTENDED;
        let answer =
            (is_first || leaf.leaf <= highest[half]).then(|| __cpuid_count(leaf.leaf, leaf.index.unwrap_or(0)));
        if let (true, Some(answer)) = (is_first, &answer) {
            highest[half] = answer.eax;
        }
        answer
    };
    LEAVES.iter().map(ask).collect()
});

const EXTENDED: u32 = 0x8000_0000;

fn answer(leaf: u32) -> CpuidResult {
    let none = CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    let mut all = LEAVES.iter().zip(ANSWERS.iter());
    all.find(|(known, _)| known.leaf == leaf).and_then(|(_, answer)| *answer).unwrap_or(none)
}

fn has(word: u32, bits: &[u32]) -> bool {
    bits.iter().all(|n| word & bit(*n) != 0)
}

/// The system has switched `xsave` on, and `xrstor`.
pub fn has_xsave() -> bool {
    has(answer(1).ecx, &[27])
}

/// AVX, whose registers the system keeps. (That the processor has them does not say so: `clearcpuid=avx`.)
pub fn has_avx() -> bool {
    const SSE_AND_AVX: u32 = bit(1) | bit(2);
    has_xsave() && has(answer(1).ecx, &[28]) && kept() & SSE_AND_AVX == SSE_AND_AVX
}

/// The lower half of XCR0: which registers the system keeps.
fn kept() -> u32 {
    let low: u32;
    // SAFETY: the system has switched `xsave` on, as was asked before, and with it this instruction; it only reads.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    low
}

/// AVX2, in the same way.
pub fn has_avx2() -> bool {
    has_avx() && has(answer(7).ebx, &[5])
}

/// All of x86-64-v3 (System V ABI for AMD64, table 3.1): FMA, MOVBE, F16C; BMI1, AVX2, BMI2; LZCNT.
pub fn has_all_of_v3() -> bool {
    has_avx2() && has(answer(1).ecx, &[12, 22, 29]) && has(answer(7).ebx, &[3, 8]) && has(answer(0x8000_0001).ecx, &[5])
}

/// The kernel's module for this processor's virtualisation, if it shows any.
pub fn kvm_module() -> Option<&'static str> {
    match () {
        () if has(answer(1).ecx, &[5]) => Some("kvm_intel"),
        () if has(answer(0x8000_0001).ecx, &[2]) => Some("kvm_amd"),
        () => None,
    }
}

/// A hypervisor says that it is there.
pub fn is_virtual() -> bool {
    has(answer(1).ecx, &[31])
}

/// What the guest is told.
pub fn short_list() -> Option<CpuId> {
    let found = LEAVES.iter().zip(ANSWERS.iter()).filter_map(|(leaf, answer)| Some((leaf, answer.as_ref()?)));
    let entries: Vec<kvm_cpuid_entry2> = found
        .map(|(l, found)| kvm_cpuid_entry2 {
            function: l.leaf,
            index: l.index.unwrap_or(0),
            flags: if l.index.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: found.eax & l.mask[0],
            ebx: found.ebx & l.mask[1],
            ecx: found.ecx & l.mask[2],
            edx: found.edx & l.mask[3],
            ..Default::default()
        })
        .collect();
    CpuId::from_entries(&entries).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_processor_is_seen_as_the_standard_library_sees_it() {
        assert_eq!(super::has_xsave(), is_x86_feature_detected!("xsave"));
        assert_eq!(super::has_avx(), is_x86_feature_detected!("avx"));
        assert_eq!(super::has_avx2(), is_x86_feature_detected!("avx2"));
        let v3 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("movbe");
        assert_eq!(super::has_all_of_v3(), v3);
    }
}
