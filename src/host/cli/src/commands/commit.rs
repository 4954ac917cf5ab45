//! `commit`

use super::Command;
use crate::getopt::{Opt, Parsed};
use crate::program::{Defaults, Exit, Program, image_params, workers};
use crate::progress::Progress;
use crate::sizes;

/// The command.
pub const COMMAND: Command = Command {
    name: "commit",
    about: "Commit image to its backing file.",
    operands: "FILE",
    options: &[
        Opt {
            long: "format",
            also: &[],
            short: Some('f'),
            argument: Some("FMT"),
            help: "the image's format; found out if not given",
        },
        Opt {
            long: "image-opts",
            also: &[],
            short: None,
            argument: None,
            help: "FILE is a list of options: driver=..,file.filename=..",
        },
        Opt { long: "cache", also: &[], short: Some('t'), argument: Some("MODE"), help: "how the images are written" },
        Opt {
            long: "base",
            also: &[],
            short: Some('b'),
            argument: Some("FILE"),
            help: "the image of the chain to commit into (FILE is not emptied then)",
        },
        Opt { long: "drop", also: &[], short: Some('d'), argument: None, help: "do not empty FILE afterwards" },
        Opt {
            long: "rate",
            also: &[],
            short: Some('r'),
            argument: Some("RATE"),
            help: "at most so many bytes a second",
        },
        Opt { long: "progress", also: &[], short: Some('p'), argument: None, help: "show how far it is" },
        Opt { long: "quiet", also: &[], short: Some('q'), argument: None, help: "print nothing" },
        Opt { long: "object", also: &[], short: None, argument: Some("OBJECT"), help: "a secret" },
    ],
    stock: true,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let rate = match parsed.text("rate") {
        None => 0,
        Some(text) => sizes::parse(&text)
            .filter(|n| *n <= i64::MAX as u64)
            .ok_or_else(|| program.fail(&program.version.bad_size("rate limit", &text)))?,
    };
    let [operand] = &parsed.operands[..] else { return Err(program.usage("Expecting one image file name")) };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    super::info::check_objects(program, parsed)?;
    let cache = program.cache(parsed, "cache", "cache", "writeback")?;
    let image = super::info::named(program, operand, parsed)?;
    let mut params = program.params("commit");
    params.set("image", image_params(&image, 0)).set("drop", parsed.has("drop")).set("writes-backing", true);
    if let Some(base) = parsed.last("base") {
        params.set("base", base.as_encoded_bytes());
    }
    let devices = vec![program.open_in_place(&image, cache)?];
    let quiet = parsed.has("quiet");
    let progress = Progress::new(parsed.has("progress") && !quiet, rate);
    progress.show(0.0);
    let subject = operand.to_string_lossy();
    let (status, _) = program.run(&params, devices, workers(), &Defaults::DATA, &subject, &progress)?;
    if status == 0 {
        progress.end();
        if !quiet {
            program.print("Image committed.\n")?;
        }
    }
    Ok(status)
}
