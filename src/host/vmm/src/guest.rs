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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::Program;
    use crate::layout::OFTEN_MAX;

    #[test]
    fn what_nearly_every_command_runs_through_lies_together() {
        let program = Program::parse(program()).expect("our own program");
        let often = program.text.addr..program.text.addr + program.often_len;
        assert!(often.contains(&program.entry), "{often:x?}");
        // Less: the names in link.ld fit no more. More: it would take longer to put in place than it saves.
        assert!((64 << 10..OFTEN_MAX).contains(&program.often_len), "{often:x?}");
        assert!(program.text.len > 2 * program.often_len, "{often:x?}");
    }
}
