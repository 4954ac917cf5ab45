//! `--help` and `--version`.

use instar_abi::drivers::{self, FORMATS, Reach};

use crate::STANDARD;
use crate::built;
use crate::commands::{COMMANDS, COMMON, Command, UNCONFIGURED, config, options_of};
use crate::config::SETTINGS;
use crate::getopt::Opt;
use crate::layout::{entry, paragraph, width, wrap};
use crate::manual::{Example, Group};
use crate::program::Program;

/// `--version`. As `qemu-img` the first line begins as that tool's does: programs read it.
pub fn version(program: &Program, verbose: bool) -> String {
    let (version, year) = (program.version, program.version.copyright_year());
    if program.is_stock() {
        return format!(
            "qemu-img version {version} (instar {})\n\
             Copyright (c) 2003-{year} Fabrice Bellard and the QEMU Project developers\n",
            env!("CARGO_PKG_VERSION")
        );
    }
    let built = if verbose { built::text() } else { String::new() };
    format!("instar {}\nimitates qemu-img {version}\n{built}", env!("CARGO_PKG_VERSION"))
}

/// What is shown first of a command's examples.
const EXAMPLES_SHOWN: usize = 2;
/// Where it begins what an option does.
const OPTIONS_AT: usize = 30;
/// Columns of the line of formats, as the stock tool has them.
const FORMATS_WIDTH: usize = 78;

const ABOUT: &str = "Does what qemu-img does, with the same arguments, output and exit statuses, and reads images in a sandbox: \
                     a virtual machine without a kernel, or a process without rights.";

const CONFIGURATION: &str = "Settings come from flags, INSTAR_* variables, ~/.config/instar/config.toml and \
                             /etc/instar/config.toml, in this order. 'instar config' shows what is in force and where it \
                             comes from.";

/// What the program can do, in three lines.
pub const EXAMPLES: &[Example] = &[
    ("instar info --no-backing upload.qcow2", "look at what a stranger sent"),
    ("instar convert -p -O qcow2 disk.raw new.qcow2", "make a qcow2 of it"),
    ("instar check -r all disk.qcow2", "repair an image"),
];

/// `-f, --format FMT`
pub fn spelled(option: &Opt) -> String {
    let short = option.short.map(|c| format!("-{c}"));
    let long = (!option.long.is_empty()).then(|| format!("--{}", option.long));
    let names = [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ");
    option.argument.map_or(names.clone(), |argument| format!("{names} {argument}"))
}

/// Those options that the program takes, called by that name and as that release.
fn taken<'a>(program: &Program, options: impl Iterator<Item = &'a Opt>) -> Vec<Opt> {
    taken_as(program.is_stock(), (program.version.major, program.version.minor), options)
}

/// The same of a program that is not this one.
pub fn taken_as<'a>(stock: bool, release: (u32, u32), options: impl Iterator<Item = &'a Opt>) -> Vec<Opt> {
    options.filter(|o| !o.own || !stock).filter_map(|o| o.of_release(release)).collect()
}

/// An option a line, or more. Long names stand below each other.
fn list<'a>(program: &Program, options: impl Iterator<Item = &'a Opt>) -> String {
    let line = |option: &Opt| {
        let indent = if option.short.is_some() || program.is_stock() { "  " } else { "      " };
        entry(&format!("{indent}{}", spelled(option)), option.help, OPTIONS_AT, width())
    };
    taken(program, options).iter().map(line).collect()
}

/// The options that every command has.
fn common() -> impl Iterator<Item = &'static Opt> {
    COMMON.iter().chain(SETTINGS.iter().map(|s| &s.flag))
}

/// The drivers, as programs look for them in the help: on one line, or from 10.0 on in lines of their own.
fn stock_formats(program: &Program) -> String {
    let mut names: Vec<&str> = drivers::names().collect();
    names.sort_unstable();
    if !program.version.wraps_formats() {
        return format!("Supported formats: {}\n", names.join(" "));
    }
    format!("Supported image formats:\n\n  {}\n", wrap(names, 2, 2, FORMATS_WIDTH))
}

/// `--help` without a command.
pub fn general(program: &Program) -> String {
    if program.is_stock() {
        return general_as_stock(program);
    }
    let column = EXAMPLES.iter().map(|(line, _)| line.len()).max().unwrap_or(0) + 4;
    let examples = EXAMPLES.iter().map(|(line, what)| entry(&format!("  {line}"), what, column, width()));
    let examples: String = examples.collect();
    let names = |kept: fn(Reach) -> bool| FORMATS.iter().filter(move |f| kept(f.written)).map(|f| f.name);
    let formats = |head: &str, names: Vec<&str>| entry(head, &names.join(" "), 11, width());
    let before = STANDARD.iter().filter(|option| option.long != "help");
    format!(
        "{}\n{}\nExamples:\n{examples}\n\
         Formats ('instar formats' tells more):\n{}{}\n\
         Options before the command:\n{}\n\
         Options of every command:\n{}\n\
         Configuration:\n{}",
        paragraph(ABOUT, 0, width()),
        commands(),
        formats("  read", names(|_| true).collect()),
        formats("  written", names(|written| written != Reach::None).collect()),
        list(program, before),
        list(program, common()),
        paragraph(CONFIGURATION, 2, width()),
    )
}

/// How the program is called, and the commands.
fn commands() -> String {
    let line = |command: &&Command| entry(&format!("  {}", command.name), command.about, 12, width());
    let group = |group: Group| {
        let lines: String = COMMANDS.iter().filter(|command| command.group == group).map(&line).collect();
        format!("\n{}:\n{lines}", group.title())
    };
    let groups: String = Group::ALL.into_iter().map(group).collect();
    format!("Usage: instar COMMAND [OPTION...] [FILE...]\n{groups}")
}

/// What is shown when nothing is asked for.
pub fn short() -> String {
    format!(
        "{}\n{}",
        commands(),
        paragraph("'instar help' tells more, 'instar help COMMAND' all of a command.", 0, width())
    )
}

fn general_as_stock(program: &Program) -> String {
    let mut known: Vec<&&Command> = COMMANDS.iter().filter(|command| command.stock).collect();
    known.sort_by_key(|command| command.name);
    let line = |command: &Command| {
        let options = taken(program, command.options.iter());
        let options = options.iter().map(|option| format!("[{}]", spelled(option)));
        let words = std::iter::once(command.name.to_string()).chain(options);
        let words = words.chain(command.operands.split(' ').map(ToString::to_string));
        format!("  {}\n{}", wrap(words, 2, 8, width()), paragraph(command.about, 4, width()))
    };
    let commands: String = known.into_iter().map(|command| line(command)).collect();
    format!(
        "{}usage: qemu-img COMMAND [OPTION...] [FILE...]\n\nCommands:\n{commands}\nOptions before the command:\n{}\n\
         Options of every command:\n{}\n\
         'qemu-img COMMAND --help' tells more.\n\n{}",
        version(program, false),
        list(program, STANDARD.iter()),
        list(program, common().filter(|option| option.long != "help")),
        stock_formats(program),
    )
}

/// `COMMAND --help`.
pub fn command(program: &Program, command: &Command) -> String {
    let head = format!("{} {}", program.name, command.name);
    let options = if command.options.is_empty() { "" } else { "[OPTION...]" };
    // Alternatives stay in one piece each.
    let bars = command.operands.contains(" | ");
    let operands = command.operands.split(if bars { " |" } else { " " });
    let operands = operands.map(|word| if word.starts_with(' ') { format!("|{word}") } else { word.to_string() });
    let words = std::iter::once(options.to_string()).chain(operands).filter(|word| !word.is_empty());
    let all = options_of(command);
    if program.is_stock() {
        let usage = format!("{head} ") + &wrap(words, 3 + head.len(), 8, width());
        return format!("Usage:\n\n  {usage}\n\n{}\n\nOptions:\n{}", command.about, list(program, all.into_iter()));
    }
    let usage =
        format!("Usage: {head} ") + &wrap(words, 8 + head.len(), if bars { 8 } else { 8 + head.len() }, width());
    let own = match command.options {
        [] => String::new(),
        options => format!("\nOptions:\n{}", list(program, options.iter())),
    };
    // Settings are taken by these, too, but of no use to them.
    let needs_none = UNCONFIGURED.contains(&command.name) && command.name != config::COMMAND.name;
    let everywhere = common().take(if needs_none { COMMON.len() } else { usize::MAX });
    let shown = &command.manual.examples[..command.manual.examples.len().min(EXAMPLES_SHOWN)];
    let examples: String = shown.iter().map(|(line, what)| format!("  # {what}\n  {line}\n")).collect();
    format!(
        "{}\n{}\n\nExamples:\n{examples}{own}\nOptions of every command:\n{}",
        paragraph(command.about, 0, width()),
        usage.trim_end(),
        list(program, everywhere),
    )
}
