//! `create`

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use instar_abi::ops::create::{Create, Formatting};
use instar_render::escape;
use instar_vmm::policy;
use instar_vmm::target::{Cache, Target};

use super::Command;
use super::option_list::{self, asks_for_help, file_option, keeps_data_file};
use super::options::{NEW_STYLE, OBJECT, QUIET};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::image_name::ImageName;
use crate::image_params::number;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program, plain};
use crate::refusal;
use crate::running::{Defaults, Silent};
use crate::sizes;

/// The command.
pub const COMMAND: Command = Command {
    name: "create",
    group: Group::Make,
    about: "Make a new image.",
    operands: "FILE [SIZE]",
    options: &[
        Opt::value("format", "FMT", "its format: raw if not given").letter('f'),
        Opt::value("options", "OPTS", "the format's options; `help` lists them").letter('o'),
        Opt::value("backing", "FILE", "it stands on FILE").letter('b'),
        Opt::value("backing-format", "FMT", "the format of the file that it stands on")
            .letter_since('B', NEW_STYLE)
            .also(&["F"]),
        Opt::flag("backing-unsafe", "do not open the file that it stands on: SIZE has to be given").letter('u'),
        QUIET,
        OBJECT,
    ],
    stock: true,
    manual: &pages::CREATE,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    option_list::check(program, parsed)?;
    let format = parsed.text("format").unwrap_or_else(|| "raw".to_string());
    if asks_for_help(parsed) {
        return option_list::help(program, &format, parsed.operands.first());
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
    let mut params = Create {
        filename: name.as_encoded_bytes().to_vec(),
        format: format.clone(),
        options: option_list::params(parsed),
        unopened: parsed.has("backing-unsafe"),
        backing: parsed.text("backing"),
        backing_format: parsed.text("backing-format"),
        size,
        ..Create::default()
    };
    // Only the backing chain's size is asked for: another program may write to it meanwhile.
    let mut call = Call::on(Vec::new(), true);
    let mut targets = Vec::new();
    match path_of(name, program) {
        Ok(path) => {
            params.backing_error = backing(program, parsed, name, &path, &mut call).err();
            make(program, parsed, &path, &mut params, &mut call, &mut targets)?;
        }
        Err(text) => params.name_error = Some(text),
    }
    let foreseen = foreseen(program, parsed, name)?;
    let subject = name.to_string_lossy();
    params.backing_image = call.described(program)?.images(1).pop();
    let (status, results) = program.run(params, call, 1, &Defaults::DATA, &subject, &Silent)?;
    let shown = escape::terminal(name.as_encoded_bytes());
    if let (Some(rows), false) = (&results.formatting, parsed.has("quiet")) {
        let render = |out: &mut dyn std::fmt::Write| {
            write!(out, "Formatting '{shown}', fmt={format} ")?;
            for (i, Formatting { name, value }) in rows.iter().enumerate() {
                let [name, value] = [name, value].map(|text| escape::terminal(text.as_bytes()));
                write!(out, "{}{name}={value}", if i == 0 { "" } else { " " })?;
            }
            out.write_char('\n')
        };
        program.show(&render, &subject)?;
    }
    if let Some(error) = &results.late_error {
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

/// Opens the backing file, if there is one. Why it cannot be opened is told by the guest: other faults are told first.
fn backing(program: &Program, parsed: &Parsed, name: &OsStr, target: &Path, call: &mut Call) -> Result<(), String> {
    let Some(file) = parsed.text("backing").or_else(|| file_option(parsed, "backing_file")) else { return Ok(()) };
    if parsed.has("backing-unsafe") || file.is_empty() || OsStr::new(&file) == name {
        return Ok(());
    }
    // As the target will say it; a protocol is none of this program's.
    let image = ImageName::plain(OsStr::new(&file), None, program.version)?.beside(target);
    let device = program.try_open(&image, Cache::default(), true)?;
    program.vouch(&image.path);
    call.image(&image, call.devices.len());
    call.devices.push(device);
    Ok(())
}

/// Makes the files that are published when all is done: the data file before the image that needs it. One that cannot
/// be made is told by the guest, after all that is wrong with the options.
fn make(
    program: &Program,
    parsed: &Parsed,
    path: &Path,
    params: &mut Create,
    call: &mut Call,
    targets: &mut Vec<Target>,
) -> Result<(), Exit> {
    let data = file_option(parsed, "data_file");
    let kept = keeps_data_file(parsed);
    let hints = option_list::hints(parsed);
    let cache = Cache { hints: hints.clone().unwrap_or_default(), ..Cache::default() };
    let data = data.iter().map(|name| (true, path_of(OsStr::new(name), program)));
    for (is_data, path) in data.chain([(false, Ok(path.to_path_buf()))]) {
        let made = match path.and_then(|path| hints.clone().map(|_| path)) {
            Err(text) => Err(text),
            Ok(path) if kept && is_data => program.existing_file(&path, cache)?.map(|device| (None, device)),
            Ok(path) => {
                let format = if is_data { "raw" } else { &params.format };
                program.new_image(&path, cache, format, 0)?.map(|(target, device)| (Some(target), device))
            }
        };
        match made {
            Ok((target, device)) => {
                let place = if is_data { &mut params.data_device } else { &mut params.device };
                *place = Some(number(call.devices.len()));
                call.devices.push(device);
                targets.extend(target);
            }
            Err(text) => {
                params.target_error.get_or_insert(text);
            }
        }
    }
    Ok(())
}
