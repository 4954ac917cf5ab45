//! `rebase`: an image stands on another backing file and shows what it showed before.
//!
//! What the image leaves to its backing file, and what reads otherwise through the new one, is copied into it first; only
//! when that is stable does the header name the new one. Extents that both chains share are not read.

mod count;

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::limits::BACKING_NAME_MAX;
use instar_image::machine::display_name;
use instar_image::quirk::{can_name, has};
use instar_image::{
    Ability, Backing, EditContext, Editing, Editor, Error, Format, Machine, NewBacking, Quirk, Result, Value, Version,
    Writer, allowed,
};

use crate::copy::plan::Planner;
use crate::copy::progress::Progress;
use crate::copy::steps::Steps;
use crate::copy::{self, Selection, Settings};
use crate::guessed::tell_guessed;
use crate::open::{ImageSpec, Opening, format_by_name, probe};

/// Runs of zeroes of so many bytes become zero clusters.
const SPARSE: u64 = 4096;

/// The parameters; see `commands::rebase` in the host half.
struct Params {
    image: ImageSpec,
    /// The new backing file's name as it is to be stored; empty: none.
    name: Vec<u8>,
    format: Option<alloc::string::String>,
    /// The new backing file; `None` where none is wanted, or with `-u`.
    new: Option<ImageSpec>,
    /// Why it could not be opened: told after all that is wrong with the image and the options.
    not_opened: Option<alloc::string::String>,
    /// `-u`
    only_name: bool,
    compress: bool,
    dry_run: bool,
    /// `-p`
    steps: bool,
}

impl Params {
    fn read(params: &Value) -> Result<Self> {
        let image = params.get("image").ok_or_else(|| Error::usage("rebase without an image"))?;
        Ok(Self {
            image: ImageSpec::from_value(image)?,
            name: params.bytes("backing").unwrap_or_default().to_vec(),
            format: params.text("backing-format").map(ToString::to_string),
            new: params.get("new").map(ImageSpec::from_value).transpose()?,
            not_opened: params.text("new-error").map(ToString::to_string),
            only_name: params.flag("unsafe"),
            compress: params.flag("compress"),
            dry_run: params.flag("dry-run"),
            steps: params.flag("steps"),
        })
    }

    fn could_not_change(&self, error: Error) -> Error {
        error.context(format!("Could not change the backing file to '{}'", display_name(&self.name)))
    }
}

/// Rebases; exit status 0.
pub fn run(machine: &dyn Machine, params: &Value, version: Version) -> Result<u8> {
    let params = Params::read(params)?;
    let opening = Opening { machine, version, data: !params.only_name };
    let (chain, format) = if params.only_name {
        let opened = opening.image_for(&params.image, true);
        let (_, format) = opened.map_err(|e| params.image.could_not_open(e))?;
        (None, format)
    } else {
        let chain = opening.chain_for(&params.image, &|depth, _| depth == 0 && !params.dry_run)?;
        let top = chain.layers.first().ok_or_else(|| Error::corrupt("a chain without an image"))?;
        let format = top.format;
        (Some(chain), format)
    };
    tell_guessed(machine, &params.image, format)?;
    if params.compress && !format.editing().is_some_and(Editing::can_compress) {
        return Err(Error::usage("Compression not supported for this file format"));
    }
    if let Some(name) = &params.format
        && format_by_name(name).is_err()
    {
        return Err(Error::usage(format!("Invalid format name: '{name}'")));
    }
    if let Some(text) = &params.not_opened {
        let hint = "-u changes the name without looking at the new backing file";
        return Err(Error::usage(text.as_str()).with_hint(hint));
    }
    if has(format, Quirk::NoDriverInfo) && version >= Version::V10_0 {
        return Err(Error::unsupported("could not get block driver info"));
    }
    let editing = checked(&params, format, machine, version)?;
    let new = match &params.new {
        Some(spec) => as_it_will_be_read(opening, format, spec).map_err(|e| not_opened(spec, e))?,
        None => Chain { layers: Vec::new() },
    };
    let options = params.image.options_at(0);
    let cx = EditContext {
        machine,
        device: params.image.device,
        name: &params.image.name,
        version,
        changes_content: false,
        keeps_identity: false,
        backing: (!params.name.is_empty())
            .then(|| NewBacking { name: &params.name, device: params.new.as_ref().map(|new| new.device) }),
        compressed: params.compress,
        options: &options,
    };
    let editor = editing.edit(cx).map_err(|e| params.image.could_not_open(e))?;
    machine.seal()?;
    if let Some(chain) = chain {
        copy_what_differs(machine, &params, chain, &new, editor.as_ref())?;
    }
    if params.dry_run {
        return Ok(0);
    }
    let backing =
        (!params.name.is_empty()).then(|| Backing { name: params.name.clone(), format: params.format.clone() });
    editor.set_backing(backing.as_ref()).map_err(|e| params.could_not_change(e))?;
    Ok(0)
}

/// The new chain as readers of the image will see it. A QED image cannot say that its backing file is a fixed VHD: it will be
/// read as raw, its footer as the end of the disk (the stock tool copies what differs from the VHD, and the disk changes).
fn as_it_will_be_read<'a>(opening: Opening<'a>, format: &dyn Format, spec: &ImageSpec) -> Result<Chain<'a>> {
    let said = opening.chain(spec)?;
    if spec.format.as_deref().is_none_or(|backing| can_name(format, backing)) {
        return Ok(said);
    }
    let found = probe(opening.machine.source(), spec.device, &spec.name)?;
    if said.layers.first().is_some_and(|layer| layer.format == found) {
        return Ok(said);
    }
    opening.chain(&ImageSpec { format: None, ..spec.clone() })
}

/// The error of [`Opening::chain`] in the words for a new backing file.
fn not_opened(spec: &ImageSpec, mut error: Error) -> Error {
    let prefix = format!("Could not open '{}': ", display_name(&spec.written));
    if let Some(rest) = error.message.strip_prefix(&prefix) {
        error.message = format!("Could not open new backing file '{}': {rest}", display_name(&spec.written));
    }
    error
}

/// Whether the image can name what it is to name: before anything is touched.
fn checked(
    params: &Params,
    format: &'static dyn Format,
    machine: &dyn Machine,
    version: Version,
) -> Result<&'static dyn Editing> {
    if params.format.is_none() && !params.name.is_empty() && version > Version::V5_2 {
        return Err(params
            .could_not_change(Error::usage("backing format must be specified"))
            .with_hint("-F says which format the new backing file has"));
    }
    let can = |editing: &&dyn Editing| editing.can_rebase() && allowed(format, Ability::Rebase, machine.source());
    let editing = format.editing().filter(can).ok_or_else(|| {
        let name = format.name();
        params
            .could_not_change(Error::unsupported("Operation not supported"))
            .with_hint(format!("the format {name} does not support rebase: its images have no backing file"))
    })?;
    if params.name.len() > BACKING_NAME_MAX {
        let hint = format!("a backing file's name has at most {BACKING_NAME_MAX} bytes, 1024 with its terminator");
        return Err(params.could_not_change(Error::usage("Invalid argument")).with_hint(hint));
    }
    Ok(editing)
}

fn copy_what_differs(
    machine: &dyn Machine,
    params: &Params,
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
        counter.emit(machine)?;
    } else {
        editor.settle()?;
    }
    progress.end_counted();
    Ok(())
}
