//! `convert`: one or more images, chains flattened, into a new or an existing one.

mod bitmaps;
mod params;
mod section;
mod target;

use alloc::vec::Vec;

use instar_abi::ops::convert::{Convert, ConvertResults};
use instar_image::chain::Chain;
use instar_image::machine::{alone, has_a_writer};
use instar_image::write::Target;
use instar_image::{Machine, Purpose, Result, Version};

use crate::copy::plan::Planner;
use crate::copy::progress::Progress;
use crate::copy::steps::Steps;
use crate::copy::{self, Disks, Selection, Settings};
use crate::nested::devices;
use crate::open::{Opening, emit_warnings, select_snapshot};
use crate::option_help;
use crate::told::tell;
use bitmaps::Wanted;
use params::Params;
use target::Output;

pub use params::selector;

/// Converts; exit status 0.
pub fn run(machine: &dyn Machine, params: &Convert, program: &str, version: Version) -> Result<u8> {
    let params = Params::of(params, program);
    let opening = Opening { machine, version };
    // What belongs to an existing target is opened before a source has been looked at: the host allows no more after that.
    // What is wrong with it is told in its turn.
    let target = params.existing.then(|| opening.chain(&params.target, &target::purpose(machine)));
    let purpose = if params.settings.salvage { Purpose::Salvage } else { Purpose::Read };
    let mut chains = Vec::new();
    for source in &params.sources {
        let opened = opening.chain(source, &|_, _| purpose).and_then(|chain| {
            // `dd` reads beside a writer what can be read so; a conversion is of one state.
            if params.section.is_none() {
                only_reader(machine, &chain)?;
            }
            Ok(chain)
        });
        let mut chain = opened.map_err(|e| source.could_not_open(e))?;
        if let Some(wanted) = &params.snapshot {
            select_snapshot(&mut chain, wanted)?;
        }
        chains.push(chain);
    }
    emit_warnings(machine, &chains)?;
    let name = params.target.format.as_deref().unwrap_or("raw");
    let format =
        if params.section.is_some() { option_help::format_to_write(name) } else { option_help::format_named(name) };
    let format = format?;
    let whole: u64 = chains.iter().map(Chain::virtual_size).sum();
    let section = params.section.map(|section| section.of(whole));
    if section == Some(None) {
        tell(machine, ConvertResults { skipped_too_much: true })?;
    }
    let (skip, size) = section.map_or((0, whole), Option::unwrap_or_default);
    let bitmaps = match params.bitmaps {
        Some(skip_broken) => Some(Wanted::choose(machine, &chains, skip_broken)?),
        None => None,
    };
    let (output, backed) = match target {
        Some(opened) => (Output::existing(opened, &params, format, size)?, params.shares_backing()),
        None => Output::create(machine, &params, format, size, version)?,
    };
    let writer = output.writer()?;
    // Writers in place keep to whole units: what is not copied of one stays what it is.
    let rest = match (writer.target(), output.chain()) {
        (Target::Allocated { unit, .. }, Some(target)) => size.next_multiple_of(unit).min(target.virtual_size()) - size,
        _ => 0,
    };
    machine.seal()?;
    let compress = params.settings.compress || writer.always_compresses();
    let (target, settings) = (writer.target(), Settings { compress, reserved: params.reserves(), ..params.settings });
    let selection = if backed { Selection::Own } else { Selection::All };
    let disks = Disks { sources: &chains, target: output.chain() };
    let planner = Planner::new(machine, disks, target, settings, selection, (size, rest)).skipping(skip);
    let planner = planner.encrypting(writer.encrypter().is_some());
    let unit = match target {
        Target::Allocated { unit, .. } if compress => Some(unit),
        _ => None,
    };
    let steps = params.steps.then(|| Steps::of_conversion(machine, &chains, settings.sparse != 0, unit, backed));
    let progress = Progress::in_steps(machine, size, steps.transpose()?);
    let copied = copy::run(machine, writer, &planner, settings, &progress);
    if let Some(losses) = planner.losses() {
        losses.tell(machine, &params.program, params.quiet)?;
    }
    copied.map_err(|error| if params.section.is_some() { section::words(error) } else { error })?;
    let finished = writer.finish();
    finished.map_err(|e| e.context("error while writing the image's metadata"))?;
    if let (Some(wanted), Some(chain)) = (&bitmaps, chains.first()) {
        wanted.copy(machine, chain, &params.target, version)?;
    }
    progress.end_counted();
    Ok(0)
}

/// Refuses a chain that another program writes to, whatever it bears.
fn only_reader(machine: &dyn Machine, chain: &Chain<'_>) -> Result<()> {
    for layer in &chain.layers {
        if layer.contended {
            let file = devices(machine, layer.device, &layer.name).pop();
            return Err(has_a_writer(file.as_ref().map_or(&layer.name, |(_, name)| name)));
        }
        for (device, name) in layer.image.data_files() {
            alone(machine.source(), device, &name)?;
        }
    }
    Ok(())
}
