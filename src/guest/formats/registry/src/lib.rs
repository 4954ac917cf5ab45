//! The list of formats.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe, SafetyCheck};

struct Raw;

impl Format for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }
    fn probe(&self, _probe: &Probe<'_>) -> u32 {
        1
    }
    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::NoneNeeded("it has no metadata")]
    }
}

static FORMATS: &[&dyn Format] = &[&Raw];

/// All formats.
#[must_use]
pub fn formats() -> &'static [&'static dyn Format] {
    FORMATS
}

/// The format called `name`.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Format> {
    formats().iter().copied().find(|f| f.name() == name)
}

/// The format with the highest score, the first of them on a tie.
#[must_use]
pub fn probe(_probe: &Probe<'_>) -> &'static dyn Format {
    &Raw
}
