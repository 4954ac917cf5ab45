//! `compare`

use instar_abi::ops::compare::Compare;
use instar_render::escape::terminal;

use super::Command;
use super::options::{OBJECT, PROGRESS, QUIET};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::image_name::ImageName;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::progress::Progress;
use crate::running::Defaults;

/// The command.
pub const COMMAND: Command = Command {
    name: "compare",
    group: Group::Look,
    about: "Say whether two images show the same disk.",
    operands: "FILE1 FILE2",
    options: &[
        Opt::value("a-format", "FMT", "the format of FILE1").letter('f'),
        Opt::value("b-format", "FMT", "the format of FILE2").letter('F'),
        Opt::flag("image-opts", "FILE1 and FILE2 are lists of options, not file names"),
        Opt::flag("strict", "sizes and allocation have to be the same too").letter('s'),
        PROGRESS,
        QUIET,
        Opt::value("cache", "CACHE", "how the images are read: writeback if not given")
            .letter('T')
            .also(&["source-cache"]),
        Opt::flag("force-share", "also while another program writes to an image").letter('U'),
        OBJECT,
    ],
    stock: true,
    manual: &pages::COMPARE,
    run,
};

/// The exit status of what keeps the images from being compared.
const TROUBLE: Exit = Exit(2);

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let [one, other] = &parsed.operands[..] else {
        return Err(program.usage("Expecting two image file names"));
    };
    super::info::check_objects(program)?;
    let named = parsed.has("a-format") || parsed.has("b-format");
    if parsed.has("image-opts") && named {
        program.say("--image-opts and --format are mutually exclusive");
        return Err(TROUBLE);
    }
    let cache = program.cache(parsed, "cache", "source cache", "writeback").map_err(|_| TROUBLE)?;
    let share = parsed.has("force-share");
    let quiet = parsed.has("quiet");
    let progress = Progress::new(parsed.has("progress") && !quiet, 0).by(2.0);
    let mut call = Call::on(Vec::new(), share);
    for (operand, format) in [(one, "a-format"), (other, "b-format")] {
        let image = if parsed.has("image-opts") {
            ImageName::from_options(operand, program.version)
        } else {
            ImageName::plain(operand, parsed.text(format), program.version)
        };
        let image = image.map_err(|e| {
            program.say(&format!("Could not open '{}': {e}", terminal(operand.as_encoded_bytes())));
            TROUBLE
        })?;
        call.image(&image, call.devices.len());
        call.devices.push(program.open_source(&image, cache, share).map_err(|_| TROUBLE)?);
    }
    progress.show(0.0);
    let subject = format!("{}, {}", one.to_string_lossy(), other.to_string_lossy());
    let images = call.described(program).map_err(|_| TROUBLE)?.images(2);
    let params = Compare { images, strict: parsed.has("strict"), steps: progress.is_shown() };
    let ran = program.run(params, call, program.workers(), &Defaults::DATA, &subject, &progress);
    // 1 would say that they differ.
    let (status, results) = ran.map_err(|_| TROUBLE)?;
    let text = results.found.as_ref().map(instar_render::compare::text).unwrap_or_default();
    if !quiet {
        program.print(&text)?;
    }
    Ok(status)
}
