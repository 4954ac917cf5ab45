//! `check`

use instar_abi::ops::Record;
use instar_abi::ops::check::{Check, Repairs};
use instar_vmm::Observer;

use super::Command;
use super::options::{FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::progress::show_lines;
use crate::running::Defaults;

/// Bytes of a file that one worker checks.
const SHORT: u64 = 16 << 20;

/// The command.
pub const COMMAND: Command = Command {
    name: "check",
    group: Group::Look,
    about: "Look for errors in an image, and repair them.",
    operands: "FILE",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt::value("cache", "MODE", "how the image is read").letter('T'),
        Opt::value("repair", "leaks|all", "repair what is found").letter('r'),
        FORCE_SHARE,
        OUTPUT,
        Opt::flag("quiet", "print only errors").letter('q'),
        OBJECT,
    ],
    stock: true,
    manual: &pages::CHECK,
    run,
};

/// Exit status: the format has nothing to check.
const UNSUPPORTED: u8 = 63;

/// Prints what the check finds while it works.
struct Lines;

impl Observer for Lines {
    fn progress(&self, _done: u64, _total: u64) {}

    fn log(&self, level: u32, text: &[u8]) -> u64 {
        show_lines(level, text)
    }
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let repair = match parsed.text("repair").as_deref() {
        None => None,
        Some("leaks") => Some(Repairs::Leaks),
        Some("all") => Some(Repairs::All),
        Some(what) => {
            let text = program.version.bad_repair(what);
            return Err(if program.version.major >= 10 { program.usage(&text) } else { program.fail(&text) });
        }
    };
    let json = super::info::wants_json(program, parsed)?;
    let [operand] = &parsed.operands[..] else { return Err(program.usage("Expecting one image file name")) };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    super::info::check_objects(program)?;
    let cache = program.cache(parsed, "cache", "source cache", "writeback")?;
    let image = super::info::named(program, operand, parsed)?;
    let share = parsed.has("force-share");
    if share && repair.is_some() {
        let written = instar_render::escape::terminal(image.written.as_encoded_bytes());
        let text = "force-share=on can only be used with read-only images";
        return Err(program.fail(&format!("Could not open '{written}': {text}")));
    }
    // Only who asks for a repair has it written to: until then nothing here may.
    let device = match repair {
        None => program.open_source(&image, cache, share)?,
        Some(_) => program.open_in_place(&image, cache)?,
    };
    let subject = image.path.to_string_lossy();
    // The tables of a short file are looked through before a second worker has begun.
    let is_short = device.file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() < SHORT);
    let workers = if is_short { 1 } else { program.workers() };
    let mut call = Call::of(&image, device, share);
    let params = Check { image: call.described(program)?.image(), repair };
    let (status, results) = program.run(params, call, workers, &Defaults::DATA, &subject, &Lines)?;
    if status == UNSUPPORTED && results.unsupported {
        program.say("This image format does not support checks");
    }
    if let Some(repaired) = results.repaired.filter(|_| !json && !parsed.has("quiet")) {
        program.print(&instar_render::repaired(&repaired))?;
    }
    let Some(check) = results.check else { return Ok(status) };
    if !parsed.has("quiet") {
        let tree = json.then(|| check.clone().into_value());
        let render = |out: &mut dyn std::fmt::Write| match &tree {
            Some(tree) => instar_render::write_json(tree, out),
            None => out.write_str(&instar_render::check_human(&check.report)),
        };
        program.show(&render, &subject)?;
    }
    if check.report.check_errors > 0 {
        program.say("Check failed");
    }
    Ok(status)
}
