//! `convert`: one or more images, chains flattened, into a new or an existing one.

mod bitmaps;
mod params;
mod section;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_abi::ops::convert::{Convert, ConvertResults};
use instar_image::chain::Chain;
use instar_image::machine::{EAGAIN, alone, has_a_writer};
use instar_image::quirk::can_name;
use instar_image::write::{Target, Writer};
use instar_image::{Backing, CreateContext, EditContext, Error, Format, Kind, Machine, OpenContext, Result, Version};

use crate::copy::plan::Planner;
use crate::copy::progress::Progress;
use crate::copy::steps::Steps;
use crate::copy::{self, Selection, Settings};
use crate::nested::devices;
use crate::open::{ImageSpec, Opening, emit_warnings, select_snapshot};
use crate::option_help;
use crate::told::tell;
use bitmaps::Wanted;
use params::Params;

pub use params::selector;

/// Disks are whole sectors of so many bytes.
const SECTOR: u64 = 512;
/// The error number of a device that may not be written.
const EBADF: u32 = 9;

/// Converts; exit status 0.
pub fn run(machine: &dyn Machine, params: &Convert, program: &str, version: Version) -> Result<u8> {
    let params = Params::of(params, program);
    let opening = Opening { machine, version, data: true };
    let named = if params.existing { open_parts(opening, &params.target).err() } else { None };
    let mut chains = Vec::new();
    for source in &params.sources {
        let salvage = params.settings.salvage;
        let mut chain = if salvage { opening.chain_to_salvage(source)? } else { opening.chain(source)? };
        // `dd` reads beside a writer what can be read so; a conversion is of one state.
        if params.section.is_none() {
            only_reader(machine, &chain).map_err(|e| source.could_not_open(e))?;
        }
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
    let (writer, backed) = writer(machine, &params, format, size, version, named)?;
    // Writers in place keep to whole units: what is not copied of one stays what it is.
    let rest = match writer.target() {
        Target::Allocated { unit, .. } if params.existing && (backed || !size.is_multiple_of(unit)) => {
            let target = opening.chain(&params.target)?;
            let end = size.next_multiple_of(unit).min(target.virtual_size());
            chains.push(target);
            end - size
        }
        _ => 0,
    };
    machine.seal()?;
    let compress = params.settings.compress || writer.always_compresses();
    let (target, settings) = (writer.target(), Settings { compress, ..params.settings });
    let selection = if backed { Selection::Own } else { Selection::All };
    let planner = Planner::new(machine.source(), &chains, target, settings, selection, (size, rest)).skipping(skip);
    let planner = planner.encrypting(writer.encrypter().is_some());
    let unit = match target {
        Target::Allocated { unit, .. } if compress => Some(unit),
        _ => None,
    };
    let steps = params.steps.then(|| {
        let sources = chains.get(..params.sources.len()).unwrap_or_default();
        Steps::of_conversion(machine, sources, settings.sparse != 0, unit, backed)
    });
    let progress = Progress::in_steps(machine, size, steps.transpose()?);
    let copied = copy::run(machine, &chains, writer.as_ref(), &planner, settings, &progress);
    if let Some(losses) = planner.losses() {
        losses.tell(machine, &params.program, params.quiet)?;
    }
    copied.map_err(|error| if params.section.is_some() { section::words(error) } else { error })?;
    let finished = writer.finish();
    finished.map_err(|e| e.context("error while writing the image's metadata"))?;
    drop(writer);
    if let (Some(wanted), Some(chain)) = (&bitmaps, chains.first()) {
        wanted.copy(machine, chain, format, &params.target, version)?;
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

/// The target, and whether it stands on a backing file that the sources share.
fn writer<'a>(
    machine: &'a dyn Machine,
    params: &'a Params,
    format: &'static dyn Format,
    size: u64,
    version: Version,
    named: Option<Error>,
) -> Result<(Box<dyn Writer + 'a>, bool)> {
    if params.existing {
        let shares = params.shares_backing();
        if shares && params.settings.zeroed {
            return Err(Error::usage("Cannot use --target-is-zero when the destination image has a backing file"));
        }
        return Ok((existing(machine, params, format, size, version, named)?, shares));
    }
    let name = format.name();
    let creator = option_help::creator_of(format)?;
    let texts: Vec<&str> = params.options.iter().map(String::as_str).collect();
    let options = option_help::parse(format, &texts, version)?;
    let backing = params.backing(&options);
    if params.bitmaps.is_some() && !creator.keeps_bitmaps(&options) {
        return Err(bitmaps::unsupported(name));
    }
    // The identity of the file that it stands on is recorded in an image of some formats.
    let parent = params.backing_image.as_ref().filter(|_| crate::create::makes_child(format, machine));
    let parent = parent.map(|image| image.device);
    if backing.is_some() && !creator.can_back() && parent.is_none() {
        return Err(Error::usage(format!("Backing file not supported for file format '{name}'")));
    }
    if params.settings.compress && !creator.can_compress() {
        return Err(Error::usage("Compression not supported for this file format"));
    }
    let encrypts = options.get("encryption").is_some_and(|v| v != "off") || options.get("encrypt.format").is_some();
    if params.settings.compress && encrypts {
        return Err(Error::usage("Compression and encryption not supported at the same time"));
    }
    if params.settings.compress && options.get("preallocation").is_some_and(|v| v != "off") {
        return Err(Error::usage("Compression and preallocation not supported at the same time"));
    }
    if let Some(Backing { format: None, .. }) = backing
        && version > Version::V5_2
    {
        return Err(Error::usage("Use of backing file requires explicit backing format"));
    }
    let shown = instar_image::machine::display_name(&params.target.name);
    let converting = if params.section.is_some() {
        format!("{shown}: error while creating output image")
    } else {
        format!("{shown}: error while converting {name}")
    };
    if let Some(Backing { format: Some(other), .. }) = &backing
        && crate::open::format_by_name(other).is_err()
    {
        let error = Error::usage(format!("Parameter 'backing-fmt' does not accept value '{other}'"));
        return Err(error.context(converting));
    }
    let backed = backing.is_some();
    let cx = CreateContext {
        machine,
        device: params.target.device,
        name: &params.target.name,
        parent,
        data_device: params.data_device,
        // A part may end within a sector.
        size: if params.section.is_some() { size.next_multiple_of(SECTOR) } else { size },
        options: &options,
        backing,
        compressed: params.settings.compress,
        version,
    };
    let writer = match parent {
        Some(parent) => creator.create_child(cx, parent),
        None => creator.create(cx),
    };
    let writer = writer.map_err(|e| e.context(converting))?;
    if let Some(image) = params.backing_image.as_ref().filter(|_| backed) {
        // An image that cannot be read because of what it stands on is of no use. A format that the target cannot name is
        // found out by its readers.
        let named = |name: &String| can_name(format, name);
        let image = ImageSpec { format: image.format.clone().filter(named), ..image.clone() };
        let layers = Opening { machine, version, data: false }.layers(&image);
        layers.map_err(|e| params.target.could_not_open(e.context("Could not open backing file")))?;
    }
    creator.can_be_filled(&options, size).map_err(|e| params.target.could_not_open(e))?;
    // What has no units has none to compress.
    if params.settings.compress && !matches!(writer.target(), Target::Allocated { .. }) {
        return Err(Error::usage("invalid cluster size"));
    }
    Ok((writer, backed))
}

/// Opens what belongs to an existing target for writing, before a source has been looked at: the host allows no more after
/// that. Without keys, which would take their time; what is wrong with the target is told in its turn.
fn open_parts(opening: Opening<'_>, target: &ImageSpec) -> Result<()> {
    let mut options = target.options_at(0);
    options.retain(|(key, _)| !key.ends_with("key-secret"));
    let target = ImageSpec { options, ..target.clone() };
    let (image, _) = opening.image_for(&target, true)?;
    // A file that it names as both is not written as the one: what stands on the other would show it.
    if image.backing().is_some() && !image.data_files().is_empty() {
        let layers = opening.layers(&target).map(|_| ());
        return layers.or_else(|error| if error.kind == Kind::Io(EAGAIN) { Err(error) } else { Ok(()) });
    }
    Ok(())
}

/// `-n`; `named`: why the target's files could not be opened.
fn existing<'a>(
    machine: &'a dyn Machine,
    params: &'a Params,
    format: &'static dyn Format,
    size: u64,
    version: Version,
    named: Option<Error>,
) -> Result<Box<dyn Writer + 'a>> {
    let target = &params.target;
    let name = format.name();
    let editing = format.editing().ok_or_else(|| {
        Error::unsupported(format!("Format driver '{name}' does not support writing into an existing image"))
    })?;
    if params.settings.compress && !editing.can_compress() {
        return Err(Error::usage("Compression not supported for this file format"));
    }
    let cx = EditContext {
        machine,
        device: target.device,
        name: &target.name,
        version,
        changes_content: true,
        keeps_identity: false,
        backing: None,
        compressed: params.settings.compress,
        options: &target.options_at(0),
    };
    let named = match named {
        Some(error) if error.kind == Kind::Io(EAGAIN) => return Err(target.could_not_open(error)),
        other => other,
    };
    // Of what could not be had in time the host only says that it is too late.
    let why = |error: Error| if error.kind == Kind::Io(EBADF) { named.unwrap_or(error) } else { error };
    let recovered = editing.recover(machine, &OpenContext::of_edit(&cx), false);
    let editor = recovered.and_then(|()| editing.edit(cx)).map_err(|e| target.could_not_open(why(e)))?;
    if editor.virtual_size() < size {
        return Err(Error::usage("output file is smaller than input file"));
    }
    if params.bitmaps.is_some() && !editor.keeps_bitmaps() {
        return Err(bitmaps::unsupported(name));
    }
    Ok(editor)
}
