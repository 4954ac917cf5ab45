//! `create`: a new image without data, over any format's creator.
//!
//! The order in which things are looked at is the stock tool's, so that of several faults the same one is told.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use instar_image::machine::display_name;
use instar_image::options::{OptionKind, OptionSpec, Options, number, size};
use instar_image::quirk::has;
use instar_image::{
    Ability, Backing, CreateContext, Creator, DeviceId, Error, Format, Kind, Machine, Quirk, Result, Value, Version,
    allowed,
};

use crate::open::{ImageSpec, Opening};
use crate::option_help::{self, creator_of, format_named};

/// The command's parameters: see `commands::create` in the host half, which makes them.
struct Request<'p> {
    /// As the user wrote it, and as it is shown.
    file: &'p [u8],
    name: String,
    format: &'p str,
    /// The (empty) target, unless the host could not make it; then why not.
    device: Option<DeviceId>,
    target_error: Option<&'p str>,
    /// The name cannot be one of a file: why.
    name_error: Option<&'p str>,
    data_device: Option<DeviceId>,
    options: Vec<&'p str>,
    /// The size as an operand, in bytes.
    size: Option<u64>,
    /// `-b`, `-F`, `-u`
    backing: Option<&'p str>,
    backing_format: Option<&'p str>,
    unopened: bool,
    /// The backing file's device and full name, unless the host could not open it; then why not.
    backing_image: Option<&'p Value>,
    backing_error: Option<&'p str>,
}

impl<'p> Request<'p> {
    fn read(params: &'p Value) -> Self {
        let device = |key| params.u64(key).and_then(|n| u32::try_from(n).ok()).map(DeviceId);
        Self {
            file: params.bytes("filename").unwrap_or_default(),
            name: display_name(params.bytes("filename").unwrap_or_default()),
            format: params.text("format").unwrap_or("raw"),
            device: device("device"),
            target_error: params.text("target-error"),
            name_error: params.text("name-error"),
            data_device: device("data-device"),
            options: params.list("options").iter().filter_map(text).collect(),
            size: params.u64("size"),
            backing: params.text("backing"),
            backing_format: params.text("backing-format"),
            unopened: params.flag("unopened"),
            backing_image: params.get("backing-image"),
            backing_error: params.text("backing-error"),
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Bytes(bytes) => core::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// What is to be made.
struct Plan {
    format: &'static dyn Format,
    creator: &'static dyn Creator,
    options: Options,
    size: u64,
    backing: Option<Backing>,
}

/// Creates; exit status 0. What fails after the line "Formatting .." is emitted as `late-error`: the host prints
/// that line first.
pub fn run(machine: &dyn Machine, params: &Value, version: Version) -> Result<u8> {
    let request = Request::read(params);
    if params.flag("option-help") {
        return option_help::run(machine, request.format, version);
    }
    let of_file = |error: Error| error.context(&request.name);
    let plan = plan(machine, &request, version).map_err(of_file)?;
    machine.emit("formatting", &formatting(&plan, version))?;
    match make(machine, &request, &plan, version) {
        Ok(()) => Ok(0),
        Err(error) => {
            machine.emit("late-error", &crate::report(&of_file(error)))?;
            Ok(1)
        }
    }
}

fn plan(machine: &dyn Machine, request: &Request<'_>, version: Version) -> Result<Plan> {
    let format = format_named(request.format)?;
    if let Some(text) = request.name_error {
        return Err(Error::usage(text));
    }
    let creator = creator_of(format)?;
    let specs: Vec<OptionSpec> = option_help::options(format, version).copied().collect();
    let mut options = option_help::parse(format, &request.options, version)?;
    match (request.size, options.get("size")) {
        (Some(_), Some(_)) => return Err(Error::usage("The image size must be specified only once")),
        (Some(bytes), None) => options.set("size", &bytes.to_string()),
        _ => {}
    }
    let name = format.name();
    let child = makes_child(format, machine);
    let has = |option: &str| child || specs.iter().any(|spec| spec.name == option);
    if let Some(file) = request.backing {
        if !has("backing_file") {
            return Err(Error::usage(format!("Backing file not supported for file format '{name}'")));
        }
        options.set("backing_file", file);
    }
    if let Some(of) = request.backing_format {
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
    if request.unopened {
        return match named {
            None if lax => machine.emit(
                "warnings",
                &Value::List(Vec::from([Value::from(
                    "Deprecated use of unopened backing file without explicit backing format, use of this image \
                     requires potentially unsafe format probing",
                )])),
            ),
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
    if let Some(text) = request.backing_error {
        return Err(not_opened(Error::usage(text)));
    }
    let image = request.backing_image.ok_or_else(|| Error::usage("a backing file without a device"))?;
    let spec = ImageSpec { format: named.clone(), ..ImageSpec::from_value(image)? };
    // Nothing is read of its disk: no key is needed, and no data file.
    let chain = Opening { machine, version, data: false }.layers(&spec).map_err(not_opened)?;
    if let (None, Some(top)) = (&named, chain.layers.first()) {
        let found = top.format.name();
        if !lax {
            return Err(Error::usage(format!("{UNNAMED}\nDetected format of {found}.")));
        }
        let warning =
            format!("Deprecated use of backing file without explicit backing format (detected format of {found})");
        machine.emit("warnings", &Value::List(Vec::from([Value::from(warning)])))?;
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
fn formatting(plan: &Plan, version: Version) -> Value {
    let rows = option_help::shown(plan.format, version).into_iter().filter_map(|(option, default)| {
        let value = match (plan.options.get(option.name), option.kind) {
            (Some(given), OptionKind::Size) => signed(size(option.name, given)),
            (Some(given), OptionKind::Number) => signed(number(option.name, given)),
            (Some(given), OptionKind::Text) => given.replace(',', ",,"),
            (Some(given), OptionKind::Bool) => given.to_string(),
            (None, _) => default?.to_string(),
        };
        let mut row = Value::map();
        row.set("name", option.name).set("value", value);
        Some(row)
    });
    Value::List(rows.collect())
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
    let image = request.backing_image.filter(|_| !request.unopened).ok_or_else(unopened)?;
    ImageSpec::from_value(image).map(|spec| spec.device)
}

/// What is said of a backing format that nobody knows.
fn unknown_backing_format(format: &dyn Format, name: &str, version: Version) -> Error {
    if has(format, Quirk::OwnWordsForBackingFormat) {
        return Error::usage(format!("unrecognized backing format '{name}'"));
    }
    if version == Version::V5_2 {
        return Error::usage(format!("Invalid parameter '{name}'"));
    }
    Error::usage(format!("Parameter 'backing-fmt' does not accept value '{name}'"))
}

fn make(machine: &dyn Machine, request: &Request<'_>, plan: &Plan, version: Version) -> Result<()> {
    if let Some(text) = request.target_error {
        return Err(Error::usage(text));
    }
    let device = request.device.ok_or_else(|| Error::usage("a target without a device"))?;
    if let Some(name) = plan.backing.as_ref().and_then(|b| b.format.as_deref())
        && instar_registry::by_name(name).is_none()
    {
        return Err(unknown_backing_format(plan.format, name, version));
    }
    let cx = CreateContext {
        machine,
        device,
        name: request.file,
        parent: parent(request).ok(),
        data_device: request.data_device,
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
