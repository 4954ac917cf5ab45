//! The commands: one file each, one line each in [`COMMANDS`].

pub mod amend;
pub mod bench;
pub mod bitmap;
pub mod check;
pub mod commit;
pub mod compare;
pub mod config;
pub mod convert;
pub mod create;
pub mod dd;
pub mod doctor;
pub mod formats;
pub mod generate;
pub mod help;
pub mod info;
pub mod map;
pub mod measure;
pub mod option_list;
pub mod options;
pub mod policy;
pub mod rebase;
pub mod resize;
pub mod snapshot;
pub mod version;

use crate::config::SETTINGS;
use crate::getopt::{Opt, Parsed};
use crate::manual::{Group, Manual};
use crate::program::{Exit, Program};

/// A command.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it is there for.
    pub group: Group,
    /// What it does, in a line.
    pub about: &'static str,
    /// What follows the options.
    pub operands: &'static str,
    /// Its own options.
    pub options: &'static [Opt],
    /// qemu-img has it.
    pub stock: bool,
    /// What else is to be said of it.
    pub manual: &'static Manual,
    /// Does it.
    pub run: fn(&Program, &Parsed) -> Result<u8, Exit>,
}

/// All commands, those of a group together.
pub const COMMANDS: &[&Command] = &[
    &info::COMMAND,
    &map::COMMAND,
    &check::COMMAND,
    &compare::COMMAND,
    &measure::COMMAND,
    &policy::COMMAND,
    &bench::COMMAND,
    &convert::COMMAND,
    &create::COMMAND,
    &dd::COMMAND,
    &amend::COMMAND,
    &bitmap::COMMAND,
    &commit::COMMAND,
    &rebase::COMMAND,
    &resize::COMMAND,
    &snapshot::COMMAND,
    &config::COMMAND,
    &doctor::COMMAND,
    &formats::COMMAND,
    &generate::COMMAND,
    &help::COMMAND,
    &version::COMMAND,
];

/// Options of every command.
pub const COMMON: &[Opt] = &[
    Opt::flag("help", "print this help and exit").letter('h'),
    Opt::flag("verbose", "say more: where the image was read, how instar was built"),
];

/// Those that read no image, and need no configuration.
pub const UNCONFIGURED: &[&str] =
    &[config::COMMAND.name, formats::COMMAND.name, generate::COMMAND.name, help::COMMAND.name, version::COMMAND.name];

/// All options of a command, the common and the configuration's last.
pub fn options_of(command: &Command) -> Vec<&'static Opt> {
    command.options.iter().chain(COMMON).chain(SETTINGS.iter().map(|s| &s.flag)).collect()
}

/// The command of that name, if the program has it when it is called so.
pub fn by_name(name: &str, stock: bool) -> Option<&'static Command> {
    COMMANDS.iter().copied().find(|command| command.name == name && (command.stock || !stock))
}
