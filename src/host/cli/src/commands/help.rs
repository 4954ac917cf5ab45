//! `help`

use super::{Command, by_name};
use crate::getopt::Parsed;
use crate::help;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};

/// The command.
pub const COMMAND: Command = Command {
    name: "help",
    group: Group::About,
    about: "Show what there is, or the options of a command.",
    operands: "[COMMAND]",
    options: &[],
    stock: false,
    manual: &pages::HELP,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let text = match &parsed.operands[..] {
        [] => help::general(program),
        [name] => {
            let name = name.to_string_lossy();
            let command = by_name(&name, program.is_stock());
            let unknown = || program.usage(&format!("Command not found: {name}"));
            help::command(program, command.ok_or_else(unknown)?)
        }
        _ => return Err(program.usage("help takes one command")),
    };
    program.print(&text)?;
    Ok(0)
}
