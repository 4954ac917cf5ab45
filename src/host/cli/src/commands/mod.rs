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
pub mod generate;
pub mod info;
pub mod map;
pub mod measure;
pub mod option_list;
pub mod options;
pub mod policy;
pub mod rebase;
pub mod resize;
pub mod snapshot;

use crate::getopt::{Opt, Parsed};
use crate::program::{Exit, Program};

/// A command.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// What follows the options.
    pub operands: &'static str,
    /// Its own options.
    pub options: &'static [Opt],
    /// qemu-img has it.
    pub stock: bool,
    /// Does it.
    pub run: fn(&Program, &Parsed) -> Result<u8, Exit>,
}

/// All commands.
pub const COMMANDS: &[&Command] = &[
    &convert::COMMAND,
    &create::COMMAND,
    &dd::COMMAND,
    &info::COMMAND,
    &map::COMMAND,
    &measure::COMMAND,
    &rebase::COMMAND,
    &resize::COMMAND,
    &snapshot::COMMAND,
    &amend::COMMAND,
    &commit::COMMAND,
    &check::COMMAND,
    &compare::COMMAND,
    &bench::COMMAND,
    &bitmap::COMMAND,
    &policy::COMMAND,
    &config::COMMAND,
    &doctor::COMMAND,
    &generate::COMMAND,
];

/// Options of every command.
pub const COMMON: &[Opt] = &[
    Opt::flag("help", "print this help and exit").letter('h'),
    Opt::flag("verbose", "say on standard error where the image was read"),
];
