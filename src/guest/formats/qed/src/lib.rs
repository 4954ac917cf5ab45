//! The QED format: so far instar only recognises it.
//!
//! A file is qed if it begins with the magic.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe, SafetyCheck};

const MAGIC: &[u8] = b"QED\0";

/// The format.
pub struct Qed;

impl Format for Qed {
    fn name(&self) -> &'static str {
        "qed"
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
        Qed.probe(&Probe { head, tail: &[], len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn the_magic_must_come_first() {
        assert_eq!(score(b"QED\0"), 100);
        assert_eq!(score(b"QED1"), 0);
    }
}
