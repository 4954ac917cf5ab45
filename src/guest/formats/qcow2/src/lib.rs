//! The qcow2 format, versions 2 and 3.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::reader::Reader;
use instar_image::{Format, Probe, SafetyCheck};

const MAGIC: &[u8] = b"QFI\xfb";
const VERSION_MIN: u32 = 2;

/// The format.
pub struct Qcow2;

impl Format for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    /// Versions after 3 are qcow2 too: they are refused when opened, not taken for raw.
    fn probe(&self, probe: &Probe<'_>) -> u32 {
        let version = Reader::new(probe.head).be32(MAGIC.len());
        if probe.head.starts_with(MAGIC) && version.is_ok_and(|v| v >= VERSION_MIN) { 100 } else { 0 }
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::Checked("the backing file and the data file are opened by the host's policy only")]
    }
}
