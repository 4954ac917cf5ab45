//! The LUKS format (version 1): so far instar only recognises it.
//!
//! Version 2 is no format to `qemu-img`, which takes it for raw; so does instar (the raw crate's `content` module
//! can tell what it is).
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe, SafetyCheck};

/// Magic and version 1, big-endian.
const MAGIC: &[u8] = b"LUKS\xba\xbe\0\x01";

/// The format.
pub struct Luks;

impl Format for Luks {
    fn name(&self) -> &'static str {
        "luks"
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
        Luks.probe(&Probe { head, tail: &[], len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn only_version_1_is_luks() {
        assert_eq!(score(b"LUKS\xba\xbe\0\x01"), 100);
        assert_eq!(score(b"LUKS\xba\xbe\0\x02"), 0);
    }
}
