//! `resize`

use instar_abi::ops::resize::{Relative, Resize};

use super::Command;
use super::options::{FORMAT, IMAGE_OPTS, OBJECT, QUIET};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::running::{Defaults, Silent};
use crate::sizes;

/// The command.
pub const COMMAND: Command = Command {
    name: "resize",
    group: Group::Change,
    about: "Make the disk of an image longer or shorter.",
    operands: "FILE [+-]SIZE",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt::value("preallocation", "off|metadata|falloc|full", "how what is added is allocated"),
        Opt::flag("shrink", "the new size may be smaller: data is lost"),
        QUIET,
        OBJECT,
    ],
    stock: true,
    manual: &pages::RESIZE,
    run,
};

const SHRINK: &str = "Use the --shrink option to perform a shrink operation.";
const LOSS: &str = "warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing \
                    such an operation, make sure there is no important data there.";

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let modern = program.version.major >= 10;
    if !modern && parsed.operands.len() < 2 {
        return Err(program.usage("Not enough arguments"));
    }
    if let Some(mode) = parsed.text("preallocation")
        && !matches!(mode.as_str(), "off" | "metadata" | "falloc" | "full")
    {
        return Err(program.fail(&format!("Invalid preallocation mode '{mode}'")));
    }
    let (operand, size) = match &parsed.operands[..] {
        [operand, size] => (operand, size.to_string_lossy()),
        [_, _, ..] if modern => return Err(program.usage("Extra argument(s) in command line")),
        _ => return Err(program.usage("Expecting image file name and size")),
    };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    super::info::check_objects(program)?;
    let (relative, number) = match size.split_at_checked(1) {
        Some(("+", number)) => (Some(Relative::More), number),
        Some(("-", number)) => (Some(Relative::Less), number),
        _ => (None, &*size),
    };
    let bytes = sizes::parse(number).ok_or_else(|| {
        if sizes::is_out_of_range(number) || number.strip_prefix('-').is_some_and(sizes::is_number) {
            return program.fail(&format!("Value '{number}' is out of range for parameter 'size'"));
        }
        program.fail(
            "Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, \
             mega-, giga-, tera-, peta-\nand exabytes, respectively.",
        )
    })?;
    let image = super::info::named(program, operand, parsed)?;
    let cache = program.cache(parsed, "cache", "cache", "writeback")?;
    let mut call = Call::of(&image, program.open_in_place(&image, cache)?, false);
    let params = Resize {
        image: call.described(program)?.image(),
        size: bytes,
        relative,
        shrink: parsed.has("shrink"),
        preallocation: parsed.text("preallocation"),
    };
    let subject = operand.to_string_lossy();
    let (status, results) = program.run(params, call, 1, &Defaults::DATA, &subject, &Silent)?;
    if results.needs_shrink {
        program.say(SHRINK);
        program.say(LOSS);
    } else if status == 0 && !parsed.has("quiet") {
        program.print("Image resized.\n")?;
    }
    Ok(status)
}
