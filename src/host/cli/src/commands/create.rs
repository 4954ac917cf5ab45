//! `create`

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use instar_abi::record::Value;
use instar_render::escape;
use instar_vmm::Device;
use instar_vmm::policy;
use instar_vmm::target::{Cache, Target};

use super::Command;
use super::option_list::{self, asks_for_help, file_option, keeps_data_file};
use super::options::{OBJECT, QUIET};
use crate::getopt::{Opt, Parsed};
use crate::image_name::ImageName;
use crate::program::{Defaults, Exit, Files, Program, Silent, image_params, plain};
use crate::refusal;
use crate::sizes;

/// The command.
pub const COMMAND: Command = Command {
    name: "create",
    about: "Create and format a new image file.",
    operands: "FILE [SIZE]",
    options: &[
        Opt::value("format", "FMT", "its format: raw if not given").letter('f'),
        Opt::value("options", "OPTS", "the format's options; `help` lists them").letter('o'),
        Opt::value("backing", "FILE", "it stands on FILE").letter('b'),
        Opt::value("backing-format", "FMT", "the format of the file that it stands on").letter('F'),
        Opt::flag("backing-unsafe", "do not open the file that it stands on: SIZE has to be given").letter('u'),
        QUIET,
        OBJECT,
    ],
    stock: true,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    option_list::check(program, parsed)?;
    let format = parsed.text("format").unwrap_or_else(|| "raw".to_string());
    if asks_for_help(parsed) {
        return option_list::help(program, "create", &format, parsed.operands.first());
    }
    let (name, size) = match &parsed.operands[..] {
        [] => return Err(program.usage("Expecting image file name")),
        [name] => (name, None),
        [name, size, rest @ ..] => {
            let size = image_size(program, &size.to_string_lossy())?;
            if let Some(more) = rest.first() {
                return Err(
                    program.usage(&format!("Unexpected argument: {}", escape::terminal(more.as_encoded_bytes())))
                );
            }
            (name, Some(size))
        }
    };
    super::info::check_objects(program)?;
    let mut params = program.params("create");
    params
        .set("filename", name.as_encoded_bytes())
        .set("format", format.as_str())
        .set("options", option_list::params(parsed))
        .set("unopened", parsed.has("backing-unsafe"));
    for key in ["backing", "backing-format"] {
        if let Some(text) = parsed.text(key) {
            params.set(key, text);
        }
    }
    if let Some(size) = size {
        params.set("size", size);
    }
    let mut devices = Vec::new();
    let mut targets = Vec::new();
    match path_of(name, program) {
        Ok(path) => {
            backing(program, parsed, name, &path, &mut params, &mut devices);
            make(program, parsed, &path, &format, &mut params, &mut devices, &mut targets)?;
        }
        Err(text) => {
            params.set("name-error", text);
        }
    }
    let foreseen = foreseen(program, parsed, name)?;
    let subject = name.to_string_lossy();
    // Only the backing chain's size is asked for: another program may write to it meanwhile.
    let files = Files::shared(devices, true);
    let (status, results) = program.run(&params, files, 1, &Defaults::DATA, &subject, &Silent)?;
    let shown = escape::terminal(name.as_encoded_bytes());
    if let (Some(rows), false) = (results.get("formatting"), parsed.has("quiet")) {
        let render = |out: &mut dyn std::fmt::Write| {
            write!(out, "Formatting '{shown}', fmt={format} ")?;
            for (i, row) in as_list(rows).iter().enumerate() {
                let text = |key| escape::terminal(row.bytes(key).unwrap_or_default());
                write!(out, "{}{}={}", if i == 0 { "" } else { " " }, text("name"), text("value"))?;
            }
            out.write_char('\n')
        };
        program.show(&render, &subject)?;
    }
    if let Some(error) = results.get("late-error") {
        program.report(error, &subject)?;
    }
    if status == 0 {
        for made in targets {
            made.publish().map_err(|e| program.fail(&format!("{shown}: Could not create '{shown}': {}", plain(&e))))?;
        }
        if let Some(text) = foreseen {
            program.say(&text);
        }
    }
    Ok(status)
}

/// The user's own word made the image; reading it, the name is the image's. Whoever is there to see it is told at once that
/// it will be refused.
fn foreseen(program: &Program, parsed: &Parsed, name: &OsStr) -> Result<Option<String>, Exit> {
    let stands_on = parsed.text("backing").or_else(|| file_option(parsed, "backing_file")).filter(|f| !f.is_empty());
    let (Some(file), Ok(path)) = (stands_on, path_of(name, program)) else { return Ok(None) };
    if program.is_stock() || parsed.has("quiet") || !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let refused = policy::would_refuse(program.policy()?, &path, file.as_bytes());
    Ok(refused.map(|refused| {
        let way_out = refusal::advice(refused.leads_to.as_deref(), &program.config);
        format!("warning: '{}' will be refused when this image is read\n{way_out}", escape::terminal(file.as_bytes()))
    }))
}

fn as_list(value: &Value) -> &[Value] {
    match value {
        Value::List(rows) => rows,
        _ => &[],
    }
}

fn image_size(program: &Program, text: &str) -> Result<u64, Exit> {
    const WHAT: &str = "image size";
    let below = program.version.reads_negative_sizes() && sizes::is_negative(text);
    let exponent = text.split_once(['e', 'E']).filter(|(_, power)| !power.is_empty());
    let exponent = exponent.filter(|_| program.version.reads_exponents()).and_then(|_| text.parse::<f64>().ok());
    match exponent.map(|size| size as u64).or_else(|| sizes::parse(text)) {
        Some(size) if size <= i64::MAX as u64 => Ok(size),
        None if !below && !sizes::is_number(text) => Err(program.fail(&program.version.bad_size(WHAT, text))),
        _ => Err(program.fail(&format!("Invalid {WHAT} specified. Must be between 0 and {}.", i64::MAX))),
    }
}

/// The file that is to be made. An empty name is left to the kernel to refuse.
fn path_of(name: &OsStr, program: &Program) -> Result<PathBuf, String> {
    if name.is_empty() || name == "file:" {
        return Ok(PathBuf::new());
    }
    if name.as_encoded_bytes().starts_with(b"json:") {
        return Err("Unknown protocol 'json'".to_string());
    }
    ImageName::plain(name, None, program.version).map(|image| image.path)
}

/// Opens the backing file, or says in the parameters why it cannot be opened: other faults are told first.
fn backing(
    program: &Program,
    parsed: &Parsed,
    name: &OsStr,
    target: &Path,
    params: &mut Value,
    devices: &mut Vec<Device>,
) {
    let Some(file) = parsed.text("backing").or_else(|| file_option(parsed, "backing_file")) else { return };
    if parsed.has("backing-unsafe") || file.is_empty() || OsStr::new(&file) == name {
        return;
    }
    // As the target will say it; a protocol is none of this program's.
    let image = match ImageName::plain(OsStr::new(&file), None, program.version) {
        Ok(image) => image.beside(target),
        Err(text) => {
            params.set("backing-error", text);
            return;
        }
    };
    match program.try_open(&image, Cache::default(), true) {
        Ok(device) => {
            program.vouch(&image.path);
            params.set("backing-image", image_params(&image, devices.len() as u64));
            devices.push(device);
        }
        Err(text) => {
            params.set("backing-error", text);
        }
    }
}

/// Makes the files that are published when all is done: the data file before the image that needs it. One that cannot
/// be made is told by the guest, after all that is wrong with the options.
fn make(
    program: &Program,
    parsed: &Parsed,
    path: &Path,
    format: &str,
    params: &mut Value,
    devices: &mut Vec<Device>,
    targets: &mut Vec<Target>,
) -> Result<(), Exit> {
    let data = file_option(parsed, "data_file");
    let kept = keeps_data_file(parsed);
    let hints = option_list::hints(parsed);
    let cache = Cache { hints: hints.clone().unwrap_or_default(), ..Cache::default() };
    let data = data.iter().map(|name| ("data-device", path_of(OsStr::new(name), program)));
    for (key, path) in data.chain([("device", Ok(path.to_path_buf()))]) {
        let made = match path.and_then(|path| hints.clone().map(|_| path)) {
            Err(text) => Err(text),
            Ok(path) if kept && key == "data-device" => {
                program.existing_file(&path, cache)?.map(|device| (None, device))
            }
            Ok(path) => {
                let format = if key == "device" { format } else { "raw" };
                program.new_image(&path, cache, format, 0)?.map(|(target, device)| (Some(target), device))
            }
        };
        match made {
            Ok((target, device)) => {
                params.set(key, devices.len() as u64);
                devices.push(device);
                targets.extend(target);
            }
            Err(text) => {
                params.set("target-error", text);
            }
        }
    }
    Ok(())
}
