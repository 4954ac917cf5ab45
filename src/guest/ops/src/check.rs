//! `check`: whether an image's metadata agrees with itself.
//!
//! What the format's check says while it works goes to the user at once; the counts are QEMU's own `ImageCheck` (QAPI,
//! block-core.json), less what has no name in it.

use alloc::string::String;

use instar_abi::ops::check::{Check, CheckReport, CheckResults, Checked, Repaired};
use instar_image::chain::Layer;
use instar_image::machine::SAY_MAX;
use instar_image::{Ability, CheckContext, Findings, Image, Machine, Purpose, Repairs, Result, Version};

use crate::guessed::tell_guessed;
use crate::open::{ImageSpec, Opening};
use crate::told::tell;

/// Exit status: the check could not be carried out wholly.
const INCOMPLETE: u8 = 1;
/// Exit status: the image is damaged.
const CORRUPT: u8 = 2;
/// Exit status: clusters are leaked, nothing worse.
const LEAKS: u8 = 3;
/// Exit status: the format has nothing to check.
const UNSUPPORTED: u8 = 63;

/// Tells the counts.
pub fn run(machine: &dyn Machine, params: &Check, program: &str, version: Version) -> Result<u8> {
    let spec = ImageSpec::of(&params.image);
    let opening = Opening { machine, version };
    let top = if params.repair.is_some() { Purpose::Repair(machine) } else { Purpose::Check };
    let purpose = |depth, _: &[u8]| if depth == 0 { top } else { Purpose::Read };
    let mut chain = opening.chain(&spec, &purpose).map_err(|e| spec.could_not_open(e))?;
    machine.seal()?;
    let mut lines = Lines { machine, program, held: String::new() };
    for warning in chain.layers.iter().flat_map(|l| l.image.warnings()) {
        lines.error(&alloc::format!("warning: {warning}"))?;
    }
    let Some(top) = chain.layers.first_mut() else { return Ok(INCOMPLETE) };
    if params.repair.is_some() {
        tell_guessed(machine, &spec, top.format)?;
    }
    let ability = if params.repair.is_some() { Ability::Repair } else { Ability::Check };
    let known = instar_image::allowed(top.format, ability, machine.source());
    if !known && params.repair.is_none() {
        // It is opened as for any other command then, and that can fail.
        opening.to_read(&spec)?;
    }
    let found = match params.repair {
        _ if !known => None,
        None => top.image.check(CheckContext { machine, findings: &mut lines }),
        Some(what) => {
            let mut again = || opening.image(&spec, Purpose::Check);
            repaired(&mut *top.image, what, &mut again, &mut lines)
        }
    };
    lines.flush()?;
    let Some(found) = found else {
        tell(machine, CheckResults { unsupported: true, ..CheckResults::default() })?;
        return Ok(UNSUPPORTED);
    };
    let report = found.map_err(|e| e.context("Check failed"))?;
    // Nothing is known where it is 0.
    let report = CheckReport { image_end_offset: report.image_end_offset.filter(|end| *end != 0), ..report };
    let checked = Checked { filename: spec.written, format: top.format.name().into(), report };
    tell(machine, CheckResults { check: Some(checked), ..CheckResults::default() })?;
    Ok(match report {
        CheckReport { check_errors: 1.., .. } => INCOMPLETE,
        CheckReport { corruptions: 1.., .. } => CORRUPT,
        CheckReport { leaks: 1.., .. } => LEAKS,
        _ => 0,
    })
}

/// Repairs, and if anything was repaired, looks at what it is now.
fn repaired<'a>(
    image: &mut (dyn Image + 'a),
    what: Repairs,
    again: &mut dyn FnMut() -> Result<Layer<'a>>,
    lines: &mut Lines<'_>,
) -> Option<Result<CheckReport>> {
    let machine = lines.machine;
    let (first, second) = match image.repair(what, CheckContext { machine, findings: lines })? {
        Ok(repaired) => (repaired.report, repaired.again),
        Err(error) => return Some(Err(error)),
    };
    let (corruptions, leaks) = (first.corruptions_fixed, first.leaks_fixed);
    if corruptions == 0 && leaks == 0 {
        return Some(Ok(first));
    }
    let told =
        tell(machine, CheckResults { repaired: Some(Repaired { corruptions, leaks }), ..CheckResults::default() });
    let second = told.and_then(|()| match second {
        Some(report) => Ok(report),
        None => {
            let checked = again()?.image.check(CheckContext { machine, findings: lines });
            checked.unwrap_or_else(|| Ok(CheckReport::default()))
        }
    });
    Some(second.map(|report| CheckReport { corruptions_fixed: corruptions, leaks_fixed: leaks, ..report }))
}

/// Lines on their way to the user: some at a time.
struct Lines<'m> {
    machine: &'m dyn Machine,
    /// What errors begin with.
    program: &'m str,
    held: String,
}

impl Lines<'_> {
    /// Says everything, in pieces that are short enough.
    fn flush(&mut self) -> Result<()> {
        let mut rest = self.held.as_str();
        while !rest.is_empty() {
            let mut end = rest.len().min(SAY_MAX);
            while !rest.is_char_boundary(end) {
                end = end.saturating_sub(1);
            }
            let (now, later) = rest.split_at(end);
            self.machine.say(now)?;
            rest = later;
        }
        self.held.clear();
        Ok(())
    }
}

impl Findings for Lines<'_> {
    fn line(&mut self, text: &str) -> Result<()> {
        if self.held.len().saturating_add(text.len()) >= SAY_MAX {
            self.flush()?;
        }
        self.held.push_str(text);
        self.held.push('\n');
        Ok(())
    }

    fn error(&mut self, text: &str) -> Result<()> {
        let line = alloc::format!("{}: {text}", self.program);
        self.line(&line)
    }
}
