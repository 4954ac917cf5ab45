//! The VHDX format: so far instar only recognises it.
//!
//! A file is vhdx if it begins with the file type identifier.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe, SafetyCheck};

const SIGNATURE: &[u8] = b"vhdxfile";

/// The format.
pub struct Vhdx;

impl Format for Vhdx {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.head.starts_with(SIGNATURE) { 100 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Banned("it cannot be read yet")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Vhdx.probe(&Probe { head, tail: &[], len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn the_signature_must_come_first() {
        assert_eq!(score(b"vhdxfile"), 100);
        assert_eq!(score(b"vhdxfil"), 0);
    }
}
