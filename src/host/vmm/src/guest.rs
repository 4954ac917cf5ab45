//! The guest program, embedded; and the choice among its builds.

/// Bytes on a page boundary, padded to whole pages: the guest runs from them where they lie.
#[repr(C, align(4096))]
struct Pages<T: ?Sized>(T);

static BASE: &Pages<[u8]> = &Pages(*include_bytes!(env!("INSTAR_GUEST_V2")));
static FAST: &Pages<[u8]> = &Pages(*include_bytes!(env!("INSTAR_GUEST_V3")));

/// instar's own guest: the build for this processor.
#[must_use]
pub fn program() -> &'static [u8] {
    if fast() { &FAST.0 } else { &BASE.0 }
}

/// Whether the processor has all of x86-64-v3.
#[must_use]
pub fn fast() -> bool {
    crate::cpuid::has_all_of_v3()
}
