//! The cloop format (compressed loop): so far instar only recognises it.
//!
//! A file is cloop if it begins with the script of version 2.0.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe, SafetyCheck};

/// The shell script that every such image begins with.
const SCRIPT: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

/// The format.
pub struct Cloop;

impl Format for Cloop {
    fn name(&self) -> &'static str {
        "cloop"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.head.starts_with(SCRIPT) { 2 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Banned("it cannot be read yet")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Cloop.probe(&Probe { head, len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn the_whole_script_is_needed() {
        assert_eq!(score(SCRIPT), 2);
        assert_eq!(score(&SCRIPT[..20]), 0);
    }
}
