//! The hostile guest, for the programs that run it.
#![forbid(unsafe_code)]

/// On page boundaries, as the sandbox wants its program.
#[repr(C, align(4096))]
struct Pages<T: ?Sized>(T);

static PAGES: &Pages<[u8]> = &Pages(*include_bytes!(env!("INSTAR_HOSTILE_GUEST")));

/// Its ELF file.
pub static GUEST: &[u8] = &PAGES.0;
