//! `convert`

use std::ffi::OsStr;
use std::path::Path;

use instar_abi::ops::ImageParams;
use instar_abi::ops::convert::{Convert, TargetParams};
use instar_render::escape::terminal;
use instar_vmm::Device;
use instar_vmm::target::{Cache, Target};

use super::Command;
use super::option_list::{self, asks_for_help, file_option, keeps_data_file};
use super::options::{NEW_STYLE, OBJECT, PROGRESS, QUIET};
use crate::call::Call;
use crate::files::{allocated, parts_of};
use crate::getopt::{Opt, Parsed};
use crate::image_name::ImageName;
use crate::image_params::number;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program, plain};
use crate::progress::Progress;
use crate::running::Defaults;

/// The command.
pub const COMMAND: Command = Command {
    name: "convert",
    group: Group::Make,
    about: "Copy an image into a new one, of another format or the same.",
    operands: "FILE [FILE...] TARGET",
    options: &[
        Opt::value("source-format", "FMT", "the sources' format; found out if not given").letter('f'),
        Opt::flag("image-opts", "each FILE is a list of options: driver=..,file.filename=..")
            .also(&["source-image-opts"]),
        Opt::value("source-cache", "MODE", "how the sources are read").letter('T'),
        Opt::value("snapshot", "SNAPSHOT", "convert that internal snapshot").letter('l').also(&["source-snapshot"]),
        Opt::flag("bitmaps", "copy persistent dirty bitmaps"),
        Opt::flag("skip-broken-bitmaps", "leave out bitmaps that are inconsistent"),
        Opt::flag("salvage", "put zeroes where a source cannot be read"),
        Opt::value("target-format", "FMT", "the target's format: raw if not given").letter('O'),
        Opt::flag("target-image-opts", "TARGET is a list of options (with -n)"),
        Opt::flag("target-is-zero", "the target reads as zeroes (with -n)"),
        Opt::value("target-cache", "MODE", "how the target is written").letter('t'),
        Opt::value("backing", "FILE", "the target stands on FILE and holds what differs")
            .letter_since('b', NEW_STYLE)
            .also(&["B"]),
        Opt::value("backing-format", "FMT", "that file's format").letter('F'),
        Opt::value("options", "OPTS", "the target format's options; `help` lists them")
            .letter('o')
            .also(&["target-format-options", "target-options"]),
        Opt::flag("no-create", "write into the existing target").letter('n'),
        Opt::value("sparse-size", "SIZE", "shortest run of zeroes that becomes a hole; 0: none").letter('S'),
        Opt::flag("compress", "compress what is written, if the format can").letter('c'),
        Opt::flag("copy-range-offloading", "let the file system copy").letter('C'),
        Opt::flag("oob-writes", "write in any order").letter('W'),
        Opt::value("parallel", "N", "at most so many requests at once").letter('m'),
        Opt::value("rate-limit", "RATE", "at most so many bytes a second").letter('r').also(&["rate"]),
        PROGRESS,
        QUIET,
        Opt::flag("force-share", "also while another program writes to a source").letter('U'),
        OBJECT,
    ],
    stock: true,
    manual: &pages::CONVERT,
    run,
};

const SPARSE_DEFAULT: u64 = 4096;
const SECTOR: u64 = 512;
/// Longest run of zeroes that `-S` may ask for.
const SPARSE_MAX: u64 = 16 << 20;

/// What the options say, checked.
struct Request {
    sparse: u64,
    target_cache: Cache,
    source_cache: Cache,
    format: String,
    rate: u64,
    workers: u32,
}

fn check(program: &Program, parsed: &Parsed) -> Result<Request, Exit> {
    let (mut sparse, mut rate, mut most) = (SPARSE_DEFAULT, 0, program.workers());
    // What is wrong with an argument is told in the order in which they were given, and before all else.
    for (key, value) in parsed.each() {
        let text = value.to_string_lossy();
        match key {
            "options" => option_list::check_one(program, value)?,
            "snapshot" => option_list::check_snapshot(program, value)?,
            "sparse-size" => sparse = sparse_size(program, &text)?,
            "rate-limit" => rate = program.size(&text, "rate limit", 0..=i64::MAX as u64)?,
            "parallel" => {
                let number: Option<i64> = text.parse().ok();
                // Each does one thing at a time.
                most = number.and_then(|n| u32::try_from(n).ok()).map_or(most, |n| n.min(program.workers()));
                if !number.is_some_and(|n| (1..=16).contains(&n)) {
                    return Err(program.fail(&program.version.bad_parallel(&text, number.is_some())));
                }
            }
            _ => {}
        }
    }
    if parsed.has("image-opts") && parsed.has("source-format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    let (create, compress) = (!parsed.has("no-create"), parsed.has("compress"));
    let rules = [
        (compress && parsed.has("copy-range-offloading"), "Cannot enable copy offloading when -c is used"),
        (
            parsed.has("sparse-size") && parsed.has("copy-range-offloading"),
            "Cannot enable copy offloading when -S is used",
        ),
        (
            parsed.has("target-image-opts") && parsed.has("target-format"),
            "--image-opts and --format are mutually exclusive",
        ),
        (parsed.has("target-image-opts") && create, "--target-image-opts requires use of -n flag"),
        (parsed.has("target-is-zero") && create, "--target-is-zero requires use of -n flag"),
        (!create && parsed.has("options"), "-o has no effect when skipping image creation"),
        (
            parsed.has("skip-broken-bitmaps") && !parsed.has("bitmaps"),
            "Use of --skip-broken-bitmaps requires --bitmaps",
        ),
        (parsed.operands.len() < 2 && !asks_for_help(parsed), "Must specify image file name"),
        (parsed.has("snapshot") && parsed.operands.len() > 2, "No support for concatenating multiple snapshot"),
        (
            parsed.operands.len() > 2 && (parsed.has("backing") || file_option(parsed, "backing_file").is_some()),
            "Having a backing file for the target makes no sense when concatenating multiple input images",
        ),
    ];
    if let Some((_, text)) = rules.iter().find(|(broken, _)| *broken) {
        return Err(program.fail(text));
    }
    super::info::check_objects(program)?;
    Ok(Request {
        sparse,
        source_cache: program.cache(parsed, "source-cache", "source cache", "writeback")?,
        target_cache: program.cache(parsed, "target-cache", "cache", "unsafe")?,
        format: parsed.text("target-format").unwrap_or_else(|| "raw".to_string()),
        rate,
        workers: most,
    })
}

fn sparse_size(program: &Program, text: &str) -> Result<u64, Exit> {
    let sparse = program.size(text, "buffer size for sparse output", 0..=i64::MAX as u64)?;
    if sparse % SECTOR != 0 || sparse > SPARSE_MAX {
        return Err(program.fail(&format!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of {SECTOR} up to \
             {SPARSE_MAX}. Select 0 to disable sparse detection (fully allocates output)."
        )));
    }
    Ok(sparse)
}

/// Targets that are published when all is done: the data file before the image that needs it.
struct Outputs {
    targets: Vec<Target>,
    devices: Vec<Device>,
    /// Bytes that will be written, as far as they are known.
    need: u64,
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let request = check(program, parsed)?;
    if asks_for_help(parsed) {
        let target = parsed.operands.get(1..).and_then(<[_]>::last);
        return option_list::help(program, &request.format, target);
    }
    let progress = Progress::new(parsed.has("progress") && !parsed.has("quiet"), request.rate);
    progress.show(0.0);
    let Some((last, sources)) = parsed.operands.split_last() else { return Err(Exit(1)) };
    let share = parsed.has("force-share");
    let mut call = Call::on(Vec::new(), share);
    let mut params = given(parsed, &request, &progress);
    let mut images = Vec::new();
    for operand in sources {
        let image = if parsed.has("image-opts") {
            ImageName::from_options(operand, program.version)
        } else {
            ImageName::plain(operand, parsed.text("source-format"), program.version)
        };
        let shown = terminal(operand.as_encoded_bytes());
        let image = image.map_err(|e| program.fail(&format!("Could not open '{shown}': {e}")))?;
        call.devices.push(program.open_source(&image, request.source_cache, share)?);
        images.push(image);
    }
    let target = target_name(program, parsed, last)?;
    program.check_writable(&target)?;
    if let (Some(name), true) = (parsed.text("backing"), parsed.has("no-create")) {
        // What an existing target stands on, it says itself; this says only that the sources share it.
        params.backing = Some(name.into_bytes());
    } else if let Some(name) = parsed.text("backing").or_else(|| file_option(parsed, "backing_file")) {
        open_backing(program, parsed, &target.path, &name, &request, &mut params, &mut call)?;
    }
    let backed = !call.images.is_empty();
    images.iter().enumerate().for_each(|(device, image)| call.image(image, device));
    let need = allocated(&call.devices);
    let mut outputs = Outputs { targets: Vec::new(), devices: Vec::new(), need };
    let first = call.devices.len();
    if let Some(name) = file_option(parsed, "data_file") {
        let path = ImageName::plain(OsStr::new(&name), None, program.version).map(|image| image.path);
        let shown = terminal(target.path.as_os_str().as_encoded_bytes());
        let path =
            path.map_err(|text| program.fail(&format!("{shown}: error while converting {}: {text}", request.format)))?;
        if keeps_data_file(parsed) && program.version.keeps_data_files() {
            outputs.devices.push(kept(program, &target.path, &path, &request)?);
        } else {
            make(program, parsed, &path, "raw", &request, &mut outputs)?;
        }
        params.target.data_device = Some(number(first));
    }
    let format = target.format.as_deref().unwrap_or(&request.format);
    make(program, parsed, &target.path, format, &request, &mut outputs)?;
    if let Some(existing) = outputs.devices.last_mut().filter(|_| parsed.has("no-create")) {
        existing.parts = parts_of(&target, Some(format));
    }
    call.devices.append(&mut outputs.devices);
    call.image(&target, call.devices.len() - 1);
    let mut described = call.described(program)?;
    params.backing_image = described.images(usize::from(backed)).pop();
    params.sources = described.images(images.len());
    let image = described.image();
    params.target.image = ImageParams { format: image.format.or_else(|| Some(request.format.clone())), ..image };
    let subject = sources.iter().map(|s| s.to_string_lossy()).collect::<Vec<_>>().join(", ");
    let (status, _) = program.run(params, call, request.workers, &Defaults::DATA, &subject, &progress)?;
    if status != 0 {
        return Ok(status);
    }
    let shown = terminal(target.path.as_os_str().as_encoded_bytes());
    for made in outputs.targets {
        made.publish()
            .map_err(|e| program.fail(&format!("{shown}: error while converting {}: {}", request.format, plain(&e))))?;
    }
    progress.end();
    Ok(0)
}

fn target_name(program: &Program, parsed: &Parsed, operand: &OsStr) -> Result<ImageName, Exit> {
    let name = if parsed.has("target-image-opts") {
        ImageName::from_options(operand, program.version)
    } else if operand.is_empty() {
        let format = parsed.text("target-format").unwrap_or_else(|| "raw".to_string());
        let text = "Could not create '': No such file or directory";
        return Err(program.fail(&format!(": error while converting {format}: {text}")));
    } else {
        ImageName::plain(operand, None, program.version)
    };
    name.map_err(|e| program.fail(&format!("Could not open '{}': {e}", terminal(operand.as_encoded_bytes()))))
}

fn open_backing(
    program: &Program,
    parsed: &Parsed,
    target: &Path,
    name: &str,
    request: &Request,
    params: &mut Convert,
    call: &mut Call,
) -> Result<(), Exit> {
    let format = parsed.text("backing-format").or_else(|| file_option(parsed, "backing_fmt"));
    if format.is_none() && program.version.needs_backing_format() {
        // That is told before anything is opened.
        params.backing = Some(name.as_bytes().to_vec());
        return Ok(());
    }
    let not_opened = |text: String| {
        let shown = terminal(target.as_os_str().as_encoded_bytes());
        program.fail(&format!("Could not open '{shown}': Could not open backing file: {text}"))
    };
    // Relative to the target, as the target will say it.
    let image = ImageName::plain(OsStr::new(name), format.clone(), program.version);
    let image = image.map_err(&not_opened)?.beside(target);
    program.vouch(&image.path);
    params.backing = Some(name.as_bytes().to_vec());
    if format.is_none() && !program.version.needs_backing_format() {
        program.say("warning: Deprecated use of backing file without explicit backing format");
    }
    params.backing_format = format;
    let opened = program.try_open(&image, request.source_cache, call.force_share);
    call.image(&image, call.devices.len());
    call.devices.push(opened.map_err(not_opened)?);
    Ok(())
}

/// Opens the data file that is there, to be written over.
fn kept(program: &Program, target: &Path, path: &Path, request: &Request) -> Result<Device, Exit> {
    let opened = program.existing_file(path, request.target_cache)?;
    opened.map_err(|text| {
        let shown = terminal(target.as_os_str().as_encoded_bytes());
        program.fail(&format!("{shown}: error while converting {}: {text}", request.format))
    })
}

/// Makes or opens one output.
fn make(
    program: &Program,
    parsed: &Parsed,
    path: &Path,
    format: &str,
    request: &Request,
    outputs: &mut Outputs,
) -> Result<(), Exit> {
    let shown = terminal(path.as_os_str().as_encoded_bytes());
    if !parsed.has("no-create") {
        let hints = option_list::hints(parsed);
        let made = match hints.map(|hints| Cache { hints, ..request.target_cache }) {
            Ok(cache) => program.new_image(path, cache, format, outputs.need)?,
            Err(text) => Err(text),
        };
        let (kept, made) =
            made.map_err(|text| program.fail(&format!("{shown}: error while converting {}: {text}", request.format)))?;
        outputs.devices.push(made);
        outputs.targets.push(kept);
        return Ok(());
    }
    let existing = program.existing_file(path, request.target_cache)?;
    outputs.devices.push(existing.map_err(|text| program.fail(&format!("Could not open '{shown}': {text}")))?);
    Ok(())
}

/// Parameters that go to the guest as they are.
fn given(parsed: &Parsed, request: &Request, progress: &Progress) -> Convert {
    let (existing, zeroed) = (parsed.has("no-create"), parsed.has("target-is-zero"));
    Convert {
        target: TargetParams { existing, zeroed, ..TargetParams::default() },
        backing_format: parsed.text("backing-format"),
        options: option_list::params(parsed),
        snapshot: parsed.text("snapshot"),
        compress: parsed.has("compress"),
        sparse: request.sparse,
        salvage: parsed.has("salvage"),
        bitmaps: parsed.has("bitmaps"),
        skip_broken_bitmaps: parsed.has("skip-broken-bitmaps"),
        quiet: parsed.has("quiet"),
        steps: progress.is_shown(),
        ..Convert::default()
    }
}
