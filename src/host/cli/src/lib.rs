//! The `instar` program. A library, so that the sandbox can be tried with another guest, behind the same commands.
#![forbid(unsafe_code)]
// Their macros panic where there is no room or no reader: `streams` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod built;
mod call;
mod commands;
mod completion;
mod config;
mod file_options;
mod files;
mod getopt;
mod given;
mod help;
mod image_name;
mod image_params;
mod layout;
mod limit;
mod manual;
mod node_name;
mod program;
mod progress;
mod refusal;
mod room;
mod running;
mod secrets;
mod sizes;
mod streams;
mod workers;

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use commands::{Command, UNCONFIGURED};
use config::Config;
use getopt::{Opt, Parsed};
use program::{Exit, Program};
use secrets::Secrets;

#[global_allocator]
static ALLOCATOR: instar_vmm::Wiping = instar_vmm::Wiping;

/// The program as it was called. `guest`: what runs in the sandbox; `None` is instar's own.
#[must_use]
pub fn start(guest: Option<&'static [u8]>) -> ExitCode {
    instar_vmm::hide();
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let name = match Path::new(&called).file_name().and_then(|n| n.to_str()) {
        Some("qemu-img") => "qemu-img",
        _ => "instar",
    };
    let arguments: Vec<OsString> = arguments.collect();
    let Exit(status) = run(name, arguments, guest).map_or_else(|exit| exit, Exit);
    ExitCode::from(if status == 0 && streams::failed() { 1 } else { status })
}

/// Options before the command.
const STANDARD: &[Opt] = &[
    Opt::flag("help", "print this help and exit").letter('h'),
    Opt::flag("version", "print the version and exit").letter('V'),
    Opt::value("trace", "TRACE", "taken and ignored").letter('T'),
];

/// How the operands of a command end that takes a number with a sign.
const SIGNED: &str = "[+-]SIZE";

/// Where the command stands: the first word that is neither an option nor an option's argument.
fn command_at(arguments: &[OsString], options: &[&Opt]) -> usize {
    let mut at = 0;
    while let Some(word) = arguments.get(at).map(|w| w.to_string_lossy().into_owned()) {
        if !word.starts_with('-') || word == "-" {
            break;
        }
        let takes_next = options.iter().any(|o| {
            o.argument.is_some()
                && (word == format!("--{}", o.long) || o.short.is_some_and(|c| word == format!("-{c}")))
        });
        at += 1 + usize::from(takes_next);
    }
    at.min(arguments.len())
}

fn run(name: &'static str, arguments: Vec<OsString>, guest: Option<&'static [u8]>) -> Result<u8, Exit> {
    let settings = config::SETTINGS.iter().map(|s| &s.flag);
    let standard: Vec<&Opt> = STANDARD.iter().chain(&commands::COMMON[1..]).chain(settings.clone()).collect();
    let (before, rest) = arguments.split_at(command_at(&arguments, &standard));
    let mut program = Program {
        name,
        command: "",
        version: Default::default(),
        config: Config::default(),
        verbose: false,
        misconfigured: None,
        secrets: Default::default(),
        guest,
        room: Default::default(),
        vouched: Default::default(),
        force_share: Default::default(),
        asked: Default::default(),
        outgrown: Default::default(),
        way_out: Default::default(),
    };
    let global = getopt::parse(before, &standard, false);
    let is_bare = arguments.is_empty() && !program.is_stock();
    let named = rest.first().map(|w| w.to_string_lossy().into_owned());
    let command = named.as_deref().and_then(|word| commands::by_name(word, program.is_stock()));
    let options: Vec<&Opt> = match command {
        Some(command) => {
            let all = commands::options_of(command).into_iter();
            all.filter(|option| !option.own || name == "instar").collect()
        }
        None => standard.clone(),
    };
    let parse = |options: &[&Opt]| match (command, &global) {
        (Some(command), Ok(before)) => {
            let words = rest.get(1..).unwrap_or_default();
            getopt::parse(words, options, command.operands.ends_with(SIGNED)).map(|parsed| parsed.after(before))
        }
        _ => global.clone(),
    };
    let mut parsed = parse(&options);
    // The version decides how a wrong option is told, so the configuration comes first, from what did parse.
    let empty = Parsed::default();
    let readable = parsed.as_ref().or(global.as_ref()).unwrap_or(&empty);
    if let Err(text) = program.config.load(readable) {
        // What is wrong with the configuration can be looked at, and mended, by the command that is for it; and what reads no
        // image needs none.
        let needs_none = command.is_some_and(|command| UNCONFIGURED.contains(&command.name));
        if !needs_none && !is_bare && !asks_only(readable, global.as_ref().ok()) {
            return Err(program.fail(&text));
        }
        program.misconfigured = Some(text);
    }
    program.version = program.config.version().unwrap_or_default();
    let release = (program.version.major, program.version.minor);
    let known: Vec<Opt> = options.iter().filter_map(|option| option.of_release(release)).collect();
    if !known.iter().eq(options.iter().copied()) {
        parsed = parse(&known.iter().collect::<Vec<_>>());
    }
    let global = global.map_err(|wrong| program.wrong(&wrong))?;
    if global.has("help") {
        program.print(&help::general(&program))?;
        return Ok(0);
    }
    if is_bare {
        program.print(&help::short())?;
        return Ok(0);
    }
    if global.has("version") {
        program.print(&help::version(&program, global.has("verbose")))?;
        return Ok(0);
    }
    // There may be secrets among them: what is kept of those is kept by `Program`.
    drop(arguments);
    match (command, named) {
        (Some(command), _) => perform(program, command, parsed),
        (None, None) => Err(program.usage("Not enough arguments")),
        (None, Some(word)) => Err(program.usage(&format!("Command not found: {word}"))),
    }
}

/// For help or the version.
fn asks_only(parsed: &Parsed, global: Option<&Parsed>) -> bool {
    parsed.has("help") || global.is_some_and(|before| before.has("help") || before.has("version"))
}

fn perform(mut program: Program, command: &'static Command, parsed: Result<Parsed, getopt::Wrong>) -> Result<u8, Exit> {
    program.command = command.name;
    let mut parsed = parsed.map_err(|wrong| program.wrong(&wrong))?;
    let objects = parsed.take(commands::options::OBJECT.long);
    program.secrets = RefCell::new(Secrets::given(objects).map_err(|text| program.fail(&text))?);
    program.verbose = parsed.has("verbose");
    if parsed.has("help") {
        program.print(&help::command(&program, command))?;
        return Ok(0);
    }
    let status = (command.run)(&program, &parsed)?;
    match streams::output_error() {
        // Of a bar or the like: what was to be done is done.
        Some(error) if status == 0 => Err(program.not_shown(&error)),
        _ => Ok(status),
    }
}
