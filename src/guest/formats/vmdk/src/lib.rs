//! The VMDK format (VMware): so far instar only recognises it.
//!
//! A file is vmdk if it begins with the magic of a sparse extent or is a text descriptor. The seSparse extents of
//! newer ESX are no format of their own: `qemu-img` reaches them through their descriptor only.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe, SafetyCheck};

/// Sparse extents: hosted, and ESX copy-on-write.
const MAGICS: [&[u8]; 2] = [b"KDMV", b"COWD"];
/// How much of a text descriptor `qemu-img` looks at, in bytes.
const TEXT_MAX: usize = 512;
/// Lines that say that a text is a descriptor; they follow comments and blank lines only.
const VERSION_LINES: [&[u8]; 6] =
    [b"version=1\n", b"version=2\n", b"version=3\n", b"version=1\r\n", b"version=2\r\n", b"version=3\r\n"];

/// Whether `text` is a descriptor. Blank are only lines that begin with a space: a quirk of `qemu-img`.
fn is_descriptor(text: &[u8]) -> bool {
    let mut rest = text.get(..TEXT_MAX).unwrap_or(text);
    loop {
        let line_end = || rest.iter().position(|b| *b == b'\n');
        rest = match rest.first() {
            Some(b'#') => match line_end() {
                Some(end) => rest.get(end.saturating_add(1)..).unwrap_or_default(),
                None => return false,
            },
            Some(b' ') => {
                let spaces = rest.iter().take_while(|b| **b == b' ').count();
                let line = rest.get(spaces..).unwrap_or_default();
                match line.strip_prefix(b"\r").unwrap_or(line).strip_prefix(b"\n") {
                    Some(next) => next,
                    None => return false,
                }
            }
            _ => return VERSION_LINES.iter().any(|l| rest.starts_with(l)),
        };
    }
}

/// The format.
pub struct Vmdk;

impl Format for Vmdk {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        let known = MAGICS.iter().any(|m| probe.head.starts_with(m)) || is_descriptor(probe.head);
        if known { 100 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Banned("it cannot be read yet")]
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use super::*;

    fn score(head: &[u8]) -> u32 {
        Vmdk.probe(&Probe { head, len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn sparse_extents() {
        assert_eq!(score(b"KDMV\x01\0\0\0"), 100);
        assert_eq!(score(b"COWD"), 100);
        assert_eq!(score(&0xcafe_babe_u64.to_le_bytes()), 0);
    }

    #[test]
    fn text_descriptors() {
        for yes in ["version=1\n", "# Disk\nversion=3\n", "# x\n  \nversion=2\n", " \r\nversion=2\r\n"] {
            assert_eq!(score(yes.as_bytes()), 100, "{yes:?}");
        }
        for no in ["version=4\n", "\nversion=2\n", "# x\n  version=2\n", "\r\nversion=2\n", "# version=1\n", "#", " "] {
            assert_eq!(score(no.as_bytes()), 0, "{no:?}");
        }
    }

    #[test]
    fn only_the_first_512_bytes_count() {
        let text = |comment: usize| [&b"#".repeat(comment)[..], b"\nversion=1\n"].concat();
        assert_eq!(score(&text(501)), 100);
        assert_eq!(score(&text(502)), 0);
    }
}
