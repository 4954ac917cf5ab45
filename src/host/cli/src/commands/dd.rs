//! `dd`

use instar_abi::ops::ImageParams;
use instar_abi::ops::convert::{Convert, SectionParams, TargetParams};
use instar_render::escape::terminal;
use instar_vmm::target::Cache;

use super::Command;
use super::options::OBJECT;
use crate::call::Call;
use crate::files::allocated;
use crate::getopt::{Opt, Parsed};
use crate::image_name::ImageName;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program, plain};
use crate::progress::Progress;
use crate::running::Defaults;

/// The command.
pub const COMMAND: Command = Command {
    name: "dd",
    group: Group::Make,
    about: "Copy a disk image, or a part of it, into a new one.",
    operands: "[bs=SIZE] [count=BLOCKS] [skip=BLOCKS] if=FILE of=FILE",
    options: &[
        Opt::value("format", "FMT", "the format of the input").letter('f'),
        Opt::value("output-format", "FMT", "the format of the output: raw if not given").letter('O'),
        Opt::flag("image-opts", "the input is a list of options, not a file name"),
        Opt::flag("force-share", "also while another program writes to the input").letter('U'),
        OBJECT,
    ],
    stock: true,
    manual: &pages::DD,
    run,
};

const BLOCK_DEFAULT: u64 = 512;
const BLOCK_MAX: u64 = i32::MAX as u64;
/// Runs of zeroes of so many bytes become holes.
const SPARSE: u64 = 4096;

/// `key=value`.
struct Operands {
    block: u64,
    count: Option<u64>,
    skip: u64,
    input: std::ffi::OsString,
    output: std::ffi::OsString,
}

fn operands(program: &Program, parsed: &Parsed) -> Result<Operands, Exit> {
    let (mut block, mut count, mut skip, mut input, mut output) = (BLOCK_DEFAULT, None, 0, None, None);
    for operand in &parsed.operands {
        let text = operand.to_string_lossy();
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        let blocks = |what| {
            let suffixed = value.ends_with(|c: char| c.is_ascii_alphabetic()) && !value.starts_with("0x");
            if suffixed && !program.version.counts_blocks_in_suffixes() {
                return Err(program.fail(&program.version.bad_size(what, value)));
            }
            program.size(value, what, 0..=i64::MAX as u64)
        };
        let has_value = text.contains('=');
        let name = || option_value(operand);
        match key {
            "bs" if has_value => block = program.size(value, "bs", 1..=BLOCK_MAX)?,
            "count" if has_value => count = Some(blocks("count")?),
            "skip" if has_value => skip = blocks("skip")?,
            "if" if has_value => input = Some(name()),
            "of" if has_value => output = Some(name()),
            _ => return Err(program.fail(&format!("unrecognized operand {}", terminal(key.as_bytes())))),
        }
    }
    let (Some(input), Some(output)) = (input, output) else {
        return Err(program.fail("Must specify both input and output files"));
    };
    Ok(Operands { block, count, skip, input, output })
}

/// What follows `=`, byte for byte.
fn option_value(operand: &std::ffi::OsStr) -> std::ffi::OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = operand.as_bytes();
    let value = bytes.iter().position(|byte| *byte == b'=').and_then(|at| bytes.get(at + 1..));
    std::ffi::OsString::from_vec(value.unwrap_or_default().to_vec())
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    let asked = operands(program, parsed)?;
    super::info::check_objects(program)?;
    let share = parsed.has("force-share");
    let source = if parsed.has("image-opts") {
        ImageName::from_options(&asked.input, program.version)
    } else {
        ImageName::plain(&asked.input, parsed.text("format"), program.version)
    };
    let shown_input = terminal(asked.input.as_encoded_bytes());
    let source = source.map_err(|e| program.fail(&format!("Could not open '{shown_input}': {e}")))?;
    let cache = Cache::default();
    let mut call = Call::of(&source, program.open_source(&source, cache, share)?, share);
    let shown = terminal(asked.output.as_encoded_bytes());
    let failed = |text: &str| program.fail(&format!("{shown}: error while creating output image: {text}"));
    if asked.output.is_empty() {
        return Err(failed("Could not create '': No such file or directory"));
    }
    let output = ImageName::plain(&asked.output, None, program.version).map_err(|text| failed(&text))?;
    let format = parsed.text("output-format").unwrap_or_else(|| "raw".to_string());
    let made = program.new_image(&output.path, cache, &format, allocated(&call.devices))?;
    let (target, device) = made.map_err(|text| failed(&text))?;
    call.devices.push(device);

    let filename = asked.output.as_encoded_bytes().to_vec();
    let image = ImageParams { device: 1, filename, format: Some(format), ..ImageParams::default() };
    let params = Convert {
        sources: call.described(program)?.images(1),
        target: TargetParams { image, ..TargetParams::default() },
        section: Some(SectionParams { block: asked.block, count: asked.count, skip: asked.skip }),
        sparse: SPARSE,
        ..Convert::default()
    };
    let progress = Progress::new(false, 0);
    let (status, results) = program.run(params, call, program.workers(), &Defaults::DATA, &shown_input, &progress)?;
    if status != 0 {
        return Ok(status);
    }
    if results.skipped_too_much {
        program.say(&format!("{shown_input}: cannot skip to specified offset"));
    }
    target.publish().map_err(|e| failed(&plain(&e)))?;
    Ok(0)
}
