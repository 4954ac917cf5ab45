//! The first qcow format: so far instar only recognises it.
//!
//! A file is qcow if it begins with the magic that qcow2 has too and says version 1.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe, SafetyCheck};

/// Magic and version 1, big-endian.
const MAGIC: &[u8] = b"QFI\xfb\0\0\0\x01";

/// The format.
pub struct Qcow;

impl Format for Qcow {
    fn name(&self) -> &'static str {
        "qcow"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.head.starts_with(MAGIC) { 100 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Banned("it cannot be read yet")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Qcow.probe(&Probe { head, tail: &[], len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn only_version_1_is_qcow() {
        assert_eq!(score(b"QFI\xfb\0\0\0\x01"), 100);
        assert_eq!(score(b"QFI\xfb\0\0\0\x02"), 0);
        assert_eq!(score(b"QFI"), 0);
    }
}
