//! The VDI format (VirtualBox): so far instar only recognises it.
//!
//! A file is vdi if the signature follows the 64 bytes of text that it begins with.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::reader::Reader;
use instar_image::{Format, Probe, SafetyCheck};

/// After 64 bytes of free text.
const SIGNATURE_AT: usize = 64;
const SIGNATURE: u32 = 0xbeda_107f;

/// The format.
pub struct Vdi;

impl Format for Vdi {
    fn name(&self) -> &'static str {
        "vdi"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if Reader::new(probe.head).le32(SIGNATURE_AT).is_ok_and(|s| s == SIGNATURE) { 100 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Banned("it cannot be read yet")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Vdi.probe(&Probe { head, tail: &[], len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn the_signature_is_behind_the_text() {
        let mut head = [b' '; 512];
        assert_eq!(score(&head), 0);
        head[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        assert_eq!(score(&head), 100);
        assert_eq!(score(&head[..67]), 0);
    }
}
