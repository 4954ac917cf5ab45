//! `compare`: do two images show the same disk?
//!
//! [`walk`] puts the extents of both side by side and hands out what has to be looked at; [`judge`] looks: plain
//! extents are compared by the host and never enter the guest, what both chains share is not read at all.

mod judge;
mod walk;

use instar_abi::ops::Operation;
use instar_abi::ops::compare::{Compare, CompareResults, Found};
use instar_image::{Error, Machine, Result, Version};

use crate::copy::progress::Progress;
use crate::copy::steps::Steps;
use crate::open::{ImageSpec, Opening};
use crate::told::{self, tell};
use judge::Judge;
use walk::Walk;

/// A table cannot be read.
const NO_STATUS: u8 = 3;
/// Data cannot be read.
const UNREADABLE: u8 = 4;

/// Compares; exit status as the stock tool's: 0 the same, 1 different, 2 and more an error. What was found is told.
pub fn run(machine: &dyn Machine, params: &Compare, version: Version) -> Result<u8> {
    let fail = |mut error: Error, status| {
        // As the stock tool's driver says it, before its command does.
        if let Some(line) = error.earlier.take() {
            machine.say(&alloc::format!("{line}\n"))?;
        }
        told::fail(machine, error)?;
        Ok(status)
    };
    let opening = Opening { machine, version };
    let mut chains = alloc::vec::Vec::new();
    for image in &params.images {
        match opening.to_read(&ImageSpec::of(image)) {
            Ok(chain) => chains.push(chain),
            Err(error) => return fail(error, Compare::UNOPENED),
        }
    }
    machine.seal()?;
    let sizes = [0, 1].map(|i| chains.get(i).map_or(0, |chain| chain.virtual_size()));
    let strict = params.strict;
    let sizes_differ = sizes[0] != sizes[1];
    let mut found = Found { sizes_differ, strict, smaller: sizes[0].min(sizes[1]), ..Found::default() };
    if strict && sizes_differ {
        tell(machine, CompareResults { found: Some(found) })?;
        return Ok(1);
    }
    let walk = Walk::new(machine, &chains, strict)?;
    let steps = params.steps.then(|| Steps::of_comparison(machine, &chains)).transpose()?;
    let progress = Progress::in_steps(machine, sizes[0].max(sizes[1]), steps);
    machine.broadcast(&|_| {
        let mut judge = Judge::new(machine, &chains, &walk);
        loop {
            let (pairs, range) = walk.next();
            if pairs.is_empty() {
                break;
            }
            judge.look(&pairs);
            if !walk.has_ended() {
                progress.add_range(range);
            }
        }
    });
    let status = match walk.first() {
        None => {
            progress.end();
            0
        }
        Some((at, walk::Event::Status)) => {
            progress.end_at(at);
            found.status_at = Some(at);
            1
        }
        Some((at, walk::Event::Content)) => {
            progress.end_at(at);
            found.content_at = Some(at);
            1
        }
        Some((_, walk::Event::NoStatus(error))) => return fail(error, NO_STATUS),
        Some((_, walk::Event::Unreadable(error))) => return fail(error, UNREADABLE),
    };
    tell(machine, CompareResults { found: Some(found) })?;
    Ok(status)
}
