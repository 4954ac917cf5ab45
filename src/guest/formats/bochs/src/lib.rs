//! The growing image format of Bochs: so far instar only recognises it.
//!
//! A file is bochs if it says so, is a growing redo log, and has version 1 or 2.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::reader::Reader;
use instar_image::{Format, Probe, SafetyCheck};

const MAGIC: &[u8] = b"Bochs Virtual HD Image\0";
/// Offset and bytes of the kind and the sub-kind, each ended by a zero byte.
const KIND: (usize, &[u8]) = (32, b"Redolog\0");
const SUBKIND: (usize, &[u8]) = (48, b"Growing\0");
const VERSION_AT: usize = 64;
const VERSIONS: [u32; 2] = [0x1_0000, 0x2_0000];

/// The format.
pub struct Bochs;

impl Format for Bochs {
    fn name(&self) -> &'static str {
        "bochs"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        let reader = Reader::new(probe.head);
        let is = |(at, text): (usize, &[u8])| reader.bytes(at, text.len()).is_ok_and(|b| b == text);
        let known = is((0, MAGIC)) && is(KIND) && is(SUBKIND);
        if known && reader.le32(VERSION_AT).is_ok_and(|v| VERSIONS.contains(&v)) { 100 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Banned("it cannot be read yet")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Bochs.probe(&Probe { head, len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn a_growing_redolog_of_a_known_version() {
        let mut head = [0; 512];
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        head[32..40].copy_from_slice(KIND.1);
        head[48..56].copy_from_slice(SUBKIND.1);
        assert_eq!(score(&head), 0);
        head[66] = 2;
        assert_eq!(score(&head), 100);
        head[48] = b'U';
        assert_eq!(score(&head), 0);
    }
}
