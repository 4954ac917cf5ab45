//! The Parallels format: so far instar only recognises it.
//!
//! A file is parallels if it begins with one of the two magics and says version 2.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::reader::Reader;
use instar_image::{Format, Probe, SafetyCheck};

/// The two magics: images that count in sectors, and those that count in clusters.
const MAGICS: [&[u8]; 2] = [b"WithoutFreeSpace", b"WithouFreSpacExt"];
const VERSION_AT: usize = 16;
const VERSION: u32 = 2;

/// The format.
pub struct Parallels;

impl Format for Parallels {
    fn name(&self) -> &'static str {
        "parallels"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        let known = MAGICS.iter().any(|m| probe.head.starts_with(m));
        let version = Reader::new(probe.head).le32(VERSION_AT);
        if known && version.is_ok_and(|v| v == VERSION) { 100 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Banned("it cannot be read yet")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Parallels.probe(&Probe { head, tail: &[], len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn both_magics_with_version_2() {
        assert_eq!(score(b"WithoutFreeSpace\x02\0\0\0"), 100);
        assert_eq!(score(b"WithouFreSpacExt\x02\0\0\0"), 100);
        assert_eq!(score(b"WithouFreSpacExt\x01\0\0\0"), 0);
        assert_eq!(score(b"WithoutFreeSpace"), 0);
    }
}
