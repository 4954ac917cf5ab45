//! `rebase`: an image stands on another backing file and shows what it showed before.
//!
//! What the image leaves to its backing file, and what reads otherwise through the new one, is copied into it first; only
//! when that is stable does the header name the new one. Extents that both chains share are not read.

mod count;

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::ops::rebase::Rebase;
use instar_image::chain::Chain;
use instar_image::limits::BACKING_NAME_MAX;
use instar_image::machine::display_name;
use instar_image::quirk::{can_name, has};
use instar_image::{
    Ability, Backing, Changes, Editor, Error, Format, Machine, NewBacking, Purpose, Quirk, Result, Version, Writer,
    allowed,
};

use crate::copy::plan::Planner;
use crate::copy::progress::Progress;
use crate::copy::steps::Steps;
use crate::copy::{self, Disks, Selection, Settings};
use crate::guessed::tell_guessed;
use crate::open::{ImageSpec, Opening, format_by_name, probe};
use crate::told::tell;

/// Runs of zeroes of so many bytes become zero clusters.
const SPARSE: u64 = 4096;

fn could_not_change(params: &Rebase, error: Error) -> Error {
    error.context(format!("Could not change the backing file to '{}'", display_name(&params.backing)))
}

/// Rebases; exit status 0.
pub fn run(machine: &dyn Machine, params: &Rebase, version: Version) -> Result<u8> {
    let image = ImageSpec::of(&params.image);
    let new = params.new.as_ref().map(ImageSpec::of);
    let opening = Opening { machine, version };
    let top = if params.dry_run { Purpose::Rehearse(machine) } else { Purpose::Write(machine) };
    let opened = if params.only_name {
        opening.image(&image, top).map(|layer| Chain { layers: vec![layer] })
    } else {
        opening.chain(&image, &|depth, _| if depth == 0 { top } else { Purpose::Read })
    };
    let mut chain = opened.map_err(|e| image.could_not_open(e))?;
    let format = chain.layers.first().map(|top| top.format).ok_or_else(empty)?;
    tell_guessed(machine, &image, format)?;
    if params.compress && !has(format, Quirk::Compresses) {
        return Err(Error::usage("Compression not supported for this file format"));
    }
    if let Some(name) = &params.backing_format
        && format_by_name(name).is_err()
    {
        return Err(Error::usage(format!("Invalid format name: '{name}'")));
    }
    if let Some(text) = &params.new_error {
        let hint = "-u changes the name without looking at the new backing file";
        return Err(Error::usage(text.as_str()).with_hint(hint));
    }
    if has(format, Quirk::NoDriverInfo) && version >= Version::V10_0 {
        return Err(Error::unsupported("could not get block driver info"));
    }
    checked(params, format, machine, version)?;
    // With -u nothing is read of its disk.
    let backing = if params.only_name { Purpose::Describe } else { Purpose::Read };
    let new_chain = match &new {
        Some(spec) => as_it_will_be_read(opening, format, spec, backing)?,
        None => Chain { layers: Vec::new() },
    };
    let new_backing = NewBacking { name: &params.backing, device: new.as_ref().map(|new| new.device) };
    let changes = Changes {
        backing: (!params.backing.is_empty()).then_some(new_backing),
        compressed: params.compress,
        ..Changes::default()
    };
    let top = chain.layers.first_mut().ok_or_else(empty)?;
    let begun = top.image.begin(&changes).ok_or_else(|| cannot(params, format))?;
    begun.map_err(|e| image.could_not_open(e))?;
    machine.seal()?;
    let editor = chain.layers.first().and_then(|top| top.image.editor()).ok_or_else(empty)?;
    let rebasing = editor.rebasing().ok_or_else(|| cannot(params, format))?;
    if params.compress && editor.compressor().is_none() {
        return Err(Error::usage("Compression not supported for this file format"));
    }
    if !params.only_name {
        copy_what_differs(machine, params, &chain, &new_chain, editor)?;
    }
    if params.dry_run {
        return Ok(0);
    }
    let backing = (!params.backing.is_empty())
        .then(|| Backing { name: params.backing.clone(), format: params.backing_format.clone() });
    rebasing.set_backing(backing.as_ref()).map_err(|e| could_not_change(params, e))?;
    Ok(0)
}

/// The new chain as readers of the image will see it. A QED image cannot say that its backing file is a fixed VHD: it will be
/// read as raw, its footer as the end of the disk (the stock tool copies what differs from the VHD, and the disk changes).
fn as_it_will_be_read<'a>(
    opening: Opening<'a>,
    format: &dyn Format,
    spec: &ImageSpec,
    backing: Purpose<'a>,
) -> Result<Chain<'a>> {
    let new = |spec: &ImageSpec| {
        let not_opened =
            |e: Error| e.context(format!("Could not open new backing file '{}'", display_name(&spec.written)));
        opening.chain(spec, &|_, _| backing).map_err(not_opened)
    };
    let said = new(spec)?;
    if spec.format.as_deref().is_none_or(|backing| can_name(format, backing)) {
        return Ok(said);
    }
    let found = probe(opening.machine.source(), spec.device, &spec.name)?;
    if said.layers.first().is_some_and(|layer| layer.format == found) {
        return Ok(said);
    }
    new(&ImageSpec { format: None, ..spec.clone() })
}

fn empty() -> Error {
    Error::corrupt("a chain without an image")
}

fn cannot(params: &Rebase, format: &dyn Format) -> Error {
    let name = format.name();
    could_not_change(params, Error::unsupported("Operation not supported"))
        .with_hint(format!("the format {name} does not support rebase: its images have no backing file"))
}

/// Whether the image can name what it is to name: before anything is touched.
fn checked(params: &Rebase, format: &'static dyn Format, machine: &dyn Machine, version: Version) -> Result<()> {
    if params.backing_format.is_none() && !params.backing.is_empty() && version > Version::V5_2 {
        return Err(could_not_change(params, Error::usage("backing format must be specified"))
            .with_hint("-F says which format the new backing file has"));
    }
    let backs = has(format, Quirk::Backs) || format.extensions().contains(&Ability::Rebase);
    if !backs || !allowed(format, Ability::Rebase, machine.source()) {
        return Err(cannot(params, format));
    }
    if params.backing.len() > BACKING_NAME_MAX {
        let hint = format!("a backing file's name has at most {BACKING_NAME_MAX} bytes, 1024 with its terminator");
        return Err(could_not_change(params, Error::usage("Invalid argument")).with_hint(hint));
    }
    Ok(())
}

fn copy_what_differs(
    machine: &dyn Machine,
    params: &Rebase,
    chain: &Chain<'_>,
    new: &Chain<'_>,
    editor: &dyn Editor,
) -> Result<()> {
    let size = chain.virtual_size();
    let settings = Settings { sparse: SPARSE, compress: params.compress, ..Settings::IN_PLACE };
    let steps = params.steps.then(|| Steps::of_rebase(chain));
    let progress = Progress::in_steps(machine, size, steps);
    let counter = count::Counter::new(editor.target());
    let writer: &dyn Writer = if params.dry_run { &counter } else { editor };
    let selection = Selection::Differing(new);
    let planner = Planner::new(machine, Disks::of(chain), writer.target(), settings, selection, (size, 0));
    copy::run(machine, writer, &planner, settings, &progress)?;
    if params.dry_run {
        tell(machine, counter.results())?;
    } else {
        editor.settle()?;
    }
    progress.end_counted();
    Ok(())
}
