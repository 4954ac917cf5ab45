//! `--help` and `--version`.

use instar_abi::drivers::{FORMATS, PROTOCOLS};

use crate::STANDARD;
use crate::commands::generate::{options_of, spelled};
use crate::commands::{COMMANDS, COMMON, Command};
use crate::config::SETTINGS;
use crate::getopt::Opt;
use crate::program::Program;

/// `--version`. As `qemu-img` the first line begins as that tool's does: programs read it.
pub fn version(program: &Program) -> String {
    let (version, year) = (program.version, program.version.copyright_year());
    if program.is_stock() {
        return format!(
            "qemu-img version {version} (instar {})\n\
             Copyright (c) 2003-{year} Fabrice Bellard and the QEMU Project developers\n",
            env!("CARGO_PKG_VERSION")
        );
    }
    format!("instar {}\nimitates qemu-img {version}\n", env!("CARGO_PKG_VERSION"))
}

/// Columns of a line of names.
const WIDTH: usize = 78;

fn list<'a>(options: impl Iterator<Item = &'a Opt>) -> String {
    options.map(|o| format!("  {:<34} {}\n", spelled(o), o.help)).collect()
}

/// Those options that the program takes, called by that name and as that release.
fn taken<'a>(program: &Program, options: impl Iterator<Item = &'a Opt>) -> Vec<Opt> {
    let release = (program.version.major, program.version.minor);
    options.filter(|o| !o.own || !program.is_stock()).filter_map(|o| o.of_release(release)).collect()
}

/// The drivers, as programs look for them in the help: on one line, or from 10.0 on in lines of their own.
fn formats(program: &Program) -> String {
    let mut names: Vec<&str> = FORMATS.iter().chain(PROTOCOLS).copied().collect();
    names.sort_unstable();
    if !program.version.wraps_formats() {
        return format!("Supported formats: {}\n", names.join(" "));
    }
    let (mut text, mut column) = (String::from("Supported image formats:\n\n "), 1);
    for name in names {
        if column + 1 + name.len() > WIDTH {
            text += "\n ";
            column = 1;
        }
        text += " ";
        text += name;
        column += 1 + name.len();
    }
    text + "\n"
}

/// `--help` without a command.
pub fn general(program: &Program) -> String {
    let commands: String = COMMANDS
        .iter()
        .filter(|c| c.stock || !program.is_stock())
        .map(|c| {
            let options = taken(program, c.options.iter());
            let options: Vec<String> = options.iter().map(|o| format!("[{}]", spelled(o))).collect();
            format!("  {} {} {}\n      {}\n", c.name, options.join(" "), c.operands, c.about)
        })
        .collect();
    let name = program.name;
    let common = COMMON.iter().filter(|option| option.long != "help").chain(SETTINGS.iter().map(|s| &s.flag));
    format!(
        "{}usage: {name} COMMAND [OPTION...] [FILE...]\n\nCommands:\n{commands}\nOptions before the command:\n{}\n\
         Options of every command:\n{}\n\
         '{name} COMMAND --help' tells more.\n\n{}",
        version(program),
        list(STANDARD.iter()),
        list(common),
        formats(program),
    )
}

/// `COMMAND --help`.
pub fn command(program: &Program, command: &Command) -> String {
    format!(
        "Usage:\n\n  {} {} [OPTION...] {}\n\n{}\n\nOptions:\n{}",
        program.name,
        command.name,
        command.operands,
        command.about,
        list(taken(program, options_of(command).into_iter()).iter()),
    )
}
