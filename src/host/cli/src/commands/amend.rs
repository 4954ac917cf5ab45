//! `amend`

use instar_abi::ops::amend::Amend;
use instar_abi::ops::option_help::OptionHelp;

use super::Command;
use super::option_list::{self, asks_for_help, show_amendable};
use super::options::{FORMAT, IMAGE_OPTS, OBJECT, PROGRESS, QUIET};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::progress::Progress;
use crate::running::{Defaults, Silent};

/// The command.
pub const COMMAND: Command = Command {
    name: "amend",
    group: Group::Change,
    about: "Change what an image was made with: version, keys, data file.",
    operands: "FILE",
    options: &[
        Opt::value("options", "OPTS", "what is to be different; `help` lists what can be").letter('o'),
        FORMAT,
        IMAGE_OPTS,
        Opt::value("cache", "MODE", "how the image is written").letter('t'),
        Opt::flag("force", "also what may make the disk unreadable, such as to erase the last key slot"),
        PROGRESS,
        QUIET,
        OBJECT,
    ],
    stock: true,
    manual: &pages::AMEND,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    option_list::check(program, parsed)?;
    super::info::check_objects(program)?;
    if !parsed.has("options") {
        return Err(program.usage("Must specify options (-o)"));
    }
    let progress = Progress::new(parsed.has("progress") && !parsed.has("quiet"), 0);
    let help = asks_for_help(parsed);
    if let (true, Some(format)) = (help, parsed.text("format")) {
        let params = OptionHelp { format: format.clone(), amend: true };
        let (status, results) = program.run(params, Call::default(), 1, &Defaults::METADATA, &format, &Silent)?;
        if status == 0 {
            show_amendable(program, &format, &results.help)?;
        }
        return Ok(status);
    }
    let [operand] = &parsed.operands[..] else { return Err(program.fail("Expecting one image file name")) };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    let cache = program.cache(parsed, "cache", "cache", "writeback")?;
    let image = super::info::named(program, operand, parsed)?;
    let mut call = Call::of(&image, program.open_in_place(&image, cache)?, false);
    let params = Amend {
        image: call.described(program)?.image(),
        options: option_list::params(parsed),
        force: parsed.has("force"),
        help,
    };
    let subject = operand.to_string_lossy();
    let (status, results) = program.run(params, call, program.workers(), &Defaults::DATA, &subject, &Silent)?;
    if results.began {
        progress.show(0.0);
        progress.end();
    }
    if let (true, Some(format)) = (help && status == 0, &results.format) {
        show_amendable(program, format, &results.rows)?;
    }
    Ok(status)
}
