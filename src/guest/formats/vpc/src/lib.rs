//! The VHD format (VirtualPC): so far instar only recognises it.
//!
//! A dynamic VHD begins with a copy of its footer. A fixed one has only the footer at its end, and `qemu-img`
//! takes it for raw unless told otherwise; so does instar.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe, SafetyCheck};

const COOKIE: &[u8] = b"conectix";

/// The format.
pub struct Vpc;

impl Format for Vpc {
    fn name(&self) -> &'static str {
        "vpc"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.head.starts_with(COOKIE) { 100 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Banned("it cannot be read yet")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Vpc.probe(&Probe { head, tail: &[], len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn the_cookie_must_come_first() {
        assert_eq!(score(b"conectix\0\0"), 100);
        assert_eq!(score(b"xconectix"), 0);
    }
}
