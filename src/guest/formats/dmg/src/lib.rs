//! The DMG format (Apple): so far instar only recognises it.
//!
//! It has no magic at its start: as with `qemu-img`, the name decides, and only where nothing else does.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe, SafetyCheck};

const SUFFIX: &[u8] = b".dmg";

/// The format.
pub struct Dmg;

impl Format for Dmg {
    fn name(&self) -> &'static str {
        "dmg"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.name.len() > SUFFIX.len() && probe.name.ends_with(SUFFIX) { 2 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Banned("it cannot be read yet")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Dmg.probe(&Probe { head, len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn the_name_decides() {
        let named = |name| Dmg.probe(&Probe { head: &[], len: 1, name });
        assert_eq!(named(b"x.dmg"), 2);
        assert_eq!(named(b".dmg"), 0);
        assert_eq!(named(b"x.DMG"), 0);
        assert_eq!(score(b"koly"), 0);
    }
}
