//! `commit`

use std::path::Path;

use instar_abi::ops::commit::Commit;

use super::Command;
use super::options::{FORMAT, IMAGE_OPTS, OBJECT, PROGRESS, QUIET};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::progress::Progress;
use crate::running::Defaults;
use crate::sizes;

/// The command.
pub const COMMAND: Command = Command {
    name: "commit",
    group: Group::Change,
    about: "Write what an image holds into its backing file.",
    operands: "FILE",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt::value("cache", "MODE", "how the images are written").letter('t'),
        Opt::value("base", "FILE", "the image of the chain to commit into (FILE is not emptied then)")
            .letter('b')
            .bytes(),
        Opt::flag("drop", "do not empty FILE afterwards").letter('d'),
        Opt::value("rate-limit", "RATE", "at most so many bytes a second").letter('r').also(&["rate"]),
        PROGRESS,
        QUIET,
        OBJECT,
    ],
    stock: true,
    manual: &pages::COMMIT,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let rate = match parsed.text("rate-limit") {
        None => 0,
        Some(text) => sizes::parse(&text)
            .filter(|n| *n <= i64::MAX as u64)
            .ok_or_else(|| program.fail(&program.version.bad_size("rate limit", &text)))?,
    };
    let [operand] = &parsed.operands[..] else { return Err(program.usage("Expecting one image file name")) };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    super::info::check_objects(program)?;
    let cache = program.cache(parsed, "cache", "cache", "writeback")?;
    let image = super::info::named(program, operand, parsed)?;
    if let Some(base) = parsed.last("base") {
        // As a name in the current directory, and as the image above it says it.
        program.vouch(Path::new(base));
        if let Some(folder) = image.path.parent() {
            program.vouch(&folder.join(base));
        }
    }
    let mut device = program.open_in_place(&image, cache)?;
    device.parts.bases = 1;
    let base = parsed.last("base");
    let mut call = Call { base: base.map(Into::into), ..Call::of(&image, device, false) };
    let quiet = parsed.has("quiet");
    let progress = Progress::new(parsed.has("progress") && !quiet, rate);
    progress.show(0.0);
    let subject = operand.to_string_lossy();
    let params = Commit {
        image: call.described(program)?.image(),
        base: base.map(|base| base.as_encoded_bytes().to_vec()),
        drop: parsed.has("drop"),
    };
    let (status, ()) = program.run(params, call, program.workers(), &Defaults::DATA, &subject, &progress)?;
    if status == 0 {
        progress.end();
        if !quiet {
            program.print("Image committed.\n")?;
        }
    }
    Ok(status)
}
