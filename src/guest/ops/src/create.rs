//! `create`: a new image without data, over any format's creator.
//!
//! The order in which things are looked at is the stock tool's, so that of several faults the same one is told.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use instar_abi::ops::create::{Create, CreateResults, Formatting};
use instar_image::machine::display_name;
use instar_image::options::{OptionKind, OptionSpec, Options};
use instar_image::quirk::has;
use instar_image::values::{number, size};
use instar_image::{
    Ability, Backing, CreateContext, Creator, DeviceId, Error, Format, Kind, Machine, Purpose, Quirk, Result, Version,
    allowed,
};

use crate::open::{ImageSpec, Opening};
use crate::option_help::{self, creator_of, format_named};
use crate::told::{failure, tell, warn};

/// The command's parameters, and the name as it is shown.
struct Request<'p> {
    sent: &'p Create,
    name: String,
}

/// What is to be made.
struct Plan {
    format: &'static dyn Format,
    creator: &'static dyn Creator,
    options: Options,
    size: u64,
    backing: Option<Backing>,
}

/// Creates; exit status 0. What fails after the line "Formatting .." is told apart: the host prints that line first.
pub fn run(machine: &dyn Machine, params: &Create, version: Version) -> Result<u8> {
    let request = Request { sent: params, name: display_name(&params.filename) };
    let of_file = |error: Error| error.context(&request.name);
    let plan = plan(machine, &request, version).map_err(of_file)?;
    tell(machine, CreateResults { formatting: Some(formatting(&plan, version)), ..CreateResults::default() })?;
    match make(machine, &request, &plan, version) {
        Ok(()) => Ok(0),
        Err(error) => {
            tell(machine, CreateResults { late_error: Some(failure(of_file(error))), ..CreateResults::default() })?;
            Ok(1)
        }
    }
}

/// The lists of `-o`. None is left out in silence.
pub fn texts(lists: &[Vec<u8>]) -> Result<Vec<&str>> {
    let text = |list| core::str::from_utf8(list).map_err(|_| Error::usage("an option of -o is not UTF-8"));
    lists.iter().map(|list| text(list)).collect()
}

fn plan(machine: &dyn Machine, request: &Request<'_>, version: Version) -> Result<Plan> {
    let format = format_named(&request.sent.format)?;
    if let Some(text) = &request.sent.name_error {
        return Err(Error::usage(text.as_str()));
    }
    let creator = creator_of(format)?;
    let specs: Vec<OptionSpec> = option_help::options(format, version).copied().collect();
    let mut options = option_help::parse(format, &texts(&request.sent.options)?, version)?;
    match (request.sent.size, options.get("size")) {
        (Some(_), Some(_)) => return Err(Error::usage("The image size must be specified only once")),
        (Some(bytes), None) => options.set("size", &bytes.to_string()),
        _ => {}
    }
    let name = format.name();
    let child = makes_child(format, machine);
    let has = |option: &str| child || specs.iter().any(|spec| spec.name == option);
    if let Some(file) = &request.sent.backing {
        if !has("backing_file") {
            return Err(Error::usage(format!("Backing file not supported for file format '{name}'")));
        }
        options.set("backing_file", file);
    }
    if let Some(of) = &request.sent.backing_format {
        if !has("backing_fmt") {
            return Err(Error::usage(format!("Backing file format not supported for file format '{name}'")));
        }
        options.set("backing_fmt", of);
    }
    if let Some(file) = options.get("backing_file").map(ToString::to_string) {
        backing(machine, request, &file, &mut options, version)?;
    }
    let bytes = options.get("size").ok_or_else(|| Error::usage("Image creation needs a size parameter"))?;
    let size = size("size", bytes)?;
    let backing = options.get("backing_file").map(|file| Backing {
        name: file.as_bytes().to_vec(),
        format: options.get("backing_fmt").map(ToString::to_string),
    });
    Ok(Plan { format, creator, options, size, backing })
}

/// Looks at the backing file, unless it is not to be opened; sets the size where none is given.
fn backing(
    machine: &dyn Machine,
    request: &Request<'_>,
    file: &str,
    options: &mut Options,
    version: Version,
) -> Result<()> {
    const UNNAMED: &str = "Backing file specified without backing format";
    if file == request.name {
        return Err(Error::usage("Error: Trying to create an image with the same filename as the backing file"));
    }
    if file.is_empty() {
        return Err(Error::usage("Expected backing file name, got empty string"));
    }
    let named = options.get("backing_fmt").map(ToString::to_string);
    let lax = version == Version::V5_2;
    if request.sent.unopened {
        const WARNING: &str = "Deprecated use of unopened backing file without explicit backing format, use of this image \
                               requires potentially unsafe format probing";
        return match named {
            None if lax => warn(machine, Vec::from([WARNING.to_string()])),
            None => Err(Error::usage(UNNAMED)),
            Some(_) => Ok(()),
        };
    }
    let not_opened = |mut error: Error| {
        error.message.push_str("\nCould not open backing image.");
        error
    };
    if let Some(name) = named.as_deref() {
        crate::open::format_by_name(name).map_err(not_opened)?;
    }
    if let Some(text) = &request.sent.backing_error {
        return Err(not_opened(Error::usage(text.as_str())));
    }
    let image = request.sent.backing_image.as_ref().ok_or_else(|| Error::usage("a backing file without a device"))?;
    let spec = ImageSpec { format: named.clone(), ..ImageSpec::of(image) };
    // Nothing is read of its disk: no key is needed, and no data file.
    let chain = Opening { machine, version }.chain(&spec, &|_, _| Purpose::Describe).map_err(not_opened)?;
    if let (None, Some(top)) = (&named, chain.layers.first()) {
        let found = top.format.name();
        if !lax {
            return Err(Error::usage(format!("{UNNAMED}\nDetected format of {found}.")));
        }
        let warning =
            format!("Deprecated use of backing file without explicit backing format (detected format of {found})");
        warn(machine, Vec::from([warning]))?;
        // A probed raw file is not recorded, so that later programs warn of it as well.
        if !has(top.format, Quirk::Fallback) {
            options.set("backing_fmt", found);
        }
    }
    if options.get("size").is_none() {
        options.set("size", &chain.virtual_size().to_string());
    }
    Ok(())
}

/// The options as the line "Formatting .." shows them: a list of name and value.
fn formatting(plan: &Plan, version: Version) -> Vec<Formatting> {
    let rows = option_help::shown(plan.format, version).into_iter().filter_map(|(option, default)| {
        let value = match (plan.options.get(option.name), option.kind) {
            (Some(given), OptionKind::Size) => signed(size(option.name, given)),
            (Some(given), OptionKind::Number) => signed(number(option.name, given)),
            (Some(given), OptionKind::Text) => given.replace(',', ",,"),
            (Some(given), OptionKind::Bool) => given.to_string(),
            (None, _) => default?.to_string(),
        };
        Some(Formatting { name: option.name.to_string(), value })
    });
    rows.collect()
}

/// The stock tool prints all numbers as signed ones of 64 bits.
fn signed(number: Result<u64>) -> String {
    number.unwrap_or_default().cast_signed().to_string()
}

/// Whether a new image of the format stands on a backing file as a child that knows more of its parent than a name: none
/// that the stock tool makes does.
pub fn makes_child(format: &dyn Format, machine: &dyn Machine) -> bool {
    format.extensions().contains(&Ability::Child) && allowed(format, Ability::Child, machine.source())
}

/// The device of a parent that its child must know more of than its name.
fn parent(request: &Request<'_>) -> Result<DeviceId> {
    let unopened = || Error::usage("The parent must be opened to be recorded in an image of this format");
    let image = request.sent.backing_image.as_ref().filter(|_| !request.sent.unopened).ok_or_else(unopened)?;
    Ok(DeviceId(image.device))
}

/// What is said of a backing format that nobody knows.
pub fn unknown_backing_format(format: &dyn Format, name: &str, version: Version) -> Error {
    if has(format, Quirk::OwnWordsForBackingFormat) {
        return Error::usage(format!("unrecognized backing format '{name}'"));
    }
    if version == Version::V5_2 {
        return Error::usage(format!("Invalid parameter '{name}'"));
    }
    Error::usage(format!("Parameter 'backing-fmt' does not accept value '{name}'"))
}

fn make(machine: &dyn Machine, request: &Request<'_>, plan: &Plan, version: Version) -> Result<()> {
    if let Some(text) = &request.sent.target_error {
        return Err(Error::usage(text.as_str()));
    }
    let device = request.sent.device.map(DeviceId).ok_or_else(|| Error::usage("a target without a device"))?;
    if let Some(name) = plan.backing.as_ref().and_then(|b| b.format.as_deref())
        && instar_registry::by_name(name).is_none()
    {
        return Err(unknown_backing_format(plan.format, name, version));
    }
    let cx = CreateContext {
        machine,
        device,
        name: &request.sent.filename,
        parent: parent(request).ok(),
        data_device: request.sent.data_device.map(DeviceId),
        size: plan.size,
        options: &plan.options,
        backing: plan.backing.clone(),
        compressed: false,
        version,
    };
    let parent = if makes_child(plan.format, machine) { plan.backing.as_ref().map(|_| parent(request)) } else { None };
    let writer = match parent {
        Some(parent) => parent.and_then(|parent| plan.creator.create_child(cx, parent)),
        None => plan.creator.create(cx),
    };
    // The creator may have made further files.
    machine.seal()?;
    let made = writer.and_then(|writer| writer.finish());
    made.map_err(|error| match error.kind {
        Kind::Limit => {
            let clusters = option_help::shown(plan.format, version).iter().any(|(option, default)| {
                option.name == "cluster_size" && (default.is_some() || plan.options.get(option.name).is_some())
            });
            let hint = if clusters { " (try using a larger cluster size)" } else { "" };
            let text = format!("The image size is too large for file format '{}'{hint}", plan.format.name());
            Error { hint: error.hint, ..Error::limit(text) }
        }
        _ => error,
    })
}
