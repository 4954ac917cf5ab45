//! What a check of a VHDX looks at: that every block lies in the file and nowhere that is taken. Beyond that, which the
//! stock tool looks at as well, what only we say is said under our own name only.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::{CheckContext, CheckReport, FileOffset, Result};

use crate::bat::{Bat, Geometry, verify};
use crate::layout::state;
use crate::regions::Regions;
use crate::view::View;

/// Most blocks whose places are compared with each other.
pub const PLACES_MAX: usize = 1 << 21;

/// Checks it.
pub fn check(view: &View<'_>, geometry: &Geometry, regions: &Regions, cx: CheckContext<'_>) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let findings = cx.findings;
    let mut wrong = |text: String| {
        report.corruptions += 1;
        findings.error(&text)
    };
    verify(view, geometry, regions, &mut wrong)?;
    if !view.source.is_stock() {
        shared(view, geometry, &mut wrong)?;
    }
    Ok(report)
}

/// Two blocks of the disk in the same bytes of the file.
fn shared(view: &View<'_>, geometry: &Geometry, wrong: &mut dyn FnMut(String) -> Result<()>) -> Result<()> {
    let mut bat = Bat::new(view, geometry);
    let mut places: Vec<FileOffset> = Vec::new();
    for block in 0..geometry.blocks {
        let found = bat.entry(geometry.payload(block))?;
        if matches!(found.state(), state::FULLY_PRESENT | state::PARTIALLY_PRESENT) && places.len() < PLACES_MAX {
            places.push(found.offset());
        }
    }
    places.sort_unstable();
    for (at, next) in places.iter().zip(places.iter().skip(1)) {
        if at.saturating_add(geometry.block) > *next {
            wrong(format!("two blocks share bytes at {next}"))?;
        }
    }
    Ok(())
}
