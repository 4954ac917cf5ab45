//! Which processor features the guest sees: the few that its code asks for.
//!
//! The kernel's own list of everything that it could offer takes longer to make than the machine itself.

use std::arch::x86_64::__cpuid_count;

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

/// What the guest is told.
pub fn short_list() -> Option<CpuId> {
    let (highest, highest_extended) = (__cpuid_count(0, 0).eax, __cpuid_count(0x8000_0000, 0).eax);
    let there = |leaf: u32| leaf <= if leaf < 0x8000_0000 { highest } else { highest_extended };
    let entries: Vec<kvm_cpuid_entry2> = LEAVES
        .iter()
        .filter(|l| there(l.leaf))
        .map(|l| {
            let found = __cpuid_count(l.leaf, l.index.unwrap_or(0));
            kvm_cpuid_entry2 {
                function: l.leaf,
                index: l.index.unwrap_or(0),
                flags: if l.index.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
                eax: found.eax & l.mask[0],
                ebx: found.ebx & l.mask[1],
                ecx: found.ecx & l.mask[2],
                edx: found.edx & l.mask[3],
                ..Default::default()
            }
        })
        .collect();
    CpuId::from_entries(&entries).ok()
}
