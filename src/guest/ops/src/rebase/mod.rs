//! `rebase`: an image stands on another backing file and shows what it showed before.
//!
//! What the image leaves to its backing file, and what reads otherwise through the new one, is copied into it first; only
//! when that is stable does the header name the new one. Extents that both chains share are not read.

mod count;

use alloc::format;
use alloc::vec::Vec;

use instar_abi::ops::rebase::Rebase;
use instar_image::chain::Chain;
use instar_image::limits::BACKING_NAME_MAX;
use instar_image::machine::display_name;
use instar_image::quirk::{can_name, has};
use instar_image::{
    Ability, Backing, EditContext, Editing, Editor, Error, Format, Machine, NewBacking, Quirk, Result, Version, Writer,
    allowed,
};

use crate::copy::plan::Planner;
use crate::copy::progress::Progress;
use crate::copy::steps::Steps;
use crate::copy::{self, Selection, Settings};
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
    let opening = Opening { machine, version, data: !params.only_name };
    let (chain, format) = if params.only_name {
        let opened = opening.image_for(&image, true);
        let (_, format) = opened.map_err(|e| image.could_not_open(e))?;
        (None, format)
    } else {
        let chain = opening.chain_for(&image, &|depth, _| depth == 0 && !params.dry_run)?;
        let top = chain.layers.first().ok_or_else(|| Error::corrupt("a chain without an image"))?;
        let format = top.format;
        (Some(chain), format)
    };
    tell_guessed(machine, &image, format)?;
    if params.compress && !format.editing().is_some_and(Editing::can_compress) {
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
    let editing = checked(params, format, machine, version)?;
    let new_chain = match &new {
        Some(spec) => as_it_will_be_read(opening, format, spec)?,
        None => Chain { layers: Vec::new() },
    };
    let options = image.options_at(0);
    let cx = EditContext {
        machine,
        device: image.device,
        name: &image.name,
        version,
        changes_content: false,
        keeps_identity: false,
        backing: (!params.backing.is_empty())
            .then(|| NewBacking { name: &params.backing, device: new.as_ref().map(|new| new.device) }),
        compressed: params.compress,
        options: &options,
    };
    let editor = editing.edit(cx).map_err(|e| image.could_not_open(e))?;
    machine.seal()?;
    if let Some(chain) = chain {
        copy_what_differs(machine, params, chain, &new_chain, editor.as_ref())?;
    }
    if params.dry_run {
        return Ok(0);
    }
    let backing = (!params.backing.is_empty())
        .then(|| Backing { name: params.backing.clone(), format: params.backing_format.clone() });
    editor.set_backing(backing.as_ref()).map_err(|e| could_not_change(params, e))?;
    Ok(0)
}

/// The new chain as readers of the image will see it. A QED image cannot say that its backing file is a fixed VHD: it will be
/// read as raw, its footer as the end of the disk (the stock tool copies what differs from the VHD, and the disk changes).
fn as_it_will_be_read<'a>(opening: Opening<'a>, format: &dyn Format, spec: &ImageSpec) -> Result<Chain<'a>> {
    let new = |spec: &ImageSpec| {
        let not_opened =
            |e: Error| e.context(format!("Could not open new backing file '{}'", display_name(&spec.written)));
        opening.layers(spec).map_err(not_opened)
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

/// Whether the image can name what it is to name: before anything is touched.
fn checked(
    params: &Rebase,
    format: &'static dyn Format,
    machine: &dyn Machine,
    version: Version,
) -> Result<&'static dyn Editing> {
    if params.backing_format.is_none() && !params.backing.is_empty() && version > Version::V5_2 {
        return Err(could_not_change(params, Error::usage("backing format must be specified"))
            .with_hint("-F says which format the new backing file has"));
    }
    let can = |editing: &&dyn Editing| editing.can_rebase() && allowed(format, Ability::Rebase, machine.source());
    let editing = format.editing().filter(can).ok_or_else(|| {
        let name = format.name();
        could_not_change(params, Error::unsupported("Operation not supported"))
            .with_hint(format!("the format {name} does not support rebase: its images have no backing file"))
    })?;
    if params.backing.len() > BACKING_NAME_MAX {
        let hint = format!("a backing file's name has at most {BACKING_NAME_MAX} bytes, 1024 with its terminator");
        return Err(could_not_change(params, Error::usage("Invalid argument")).with_hint(hint));
    }
    Ok(editing)
}

fn copy_what_differs(
    machine: &dyn Machine,
    params: &Rebase,
    chain: Chain<'_>,
    new: &Chain<'_>,
    editor: &dyn Editor,
) -> Result<()> {
    let size = chain.virtual_size();
    let chains = [chain];
    let settings = Settings { sparse: SPARSE, zeroed: false, salvage: false, compress: params.compress, as_is: false };
    let steps = chains.first().filter(|_| params.steps).map(Steps::of_rebase);
    let progress = Progress::in_steps(machine, size, steps);
    let counter = count::Counter::new(editor.target());
    let writer: &dyn Writer = if params.dry_run { &counter } else { editor };
    let selection = Selection::Differing(new);
    let planner = Planner::new(machine.source(), &chains, writer.target(), settings, selection, (size, 0));
    copy::run(machine, &chains, writer, &planner, settings, &progress)?;
    if params.dry_run {
        tell(machine, counter.results())?;
    } else {
        editor.settle()?;
    }
    progress.end_counted();
    Ok(())
}
