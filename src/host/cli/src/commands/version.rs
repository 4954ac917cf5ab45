//! `version`

use super::Command;
use crate::getopt::Parsed;
use crate::help;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};

/// The command.
pub const COMMAND: Command = Command {
    name: "version",
    group: Group::About,
    about: "Show the version; with --verbose how it was built.",
    operands: "",
    options: &[],
    stock: false,
    manual: &pages::VERSION,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    if !parsed.operands.is_empty() {
        return Err(program.usage("version takes no file name"));
    }
    program.print(&help::version(program, parsed.has("verbose")))?;
    Ok(0)
}
