//! `map`

use std::sync::{Mutex, PoisonError};

use instar_abi::ops::map::{Map, MapRecord};
use instar_abi::ring::LOG_RECORDS;
use instar_render::escape::terminal;
use instar_render::map::{MAP_HEAD, MapLines, NoPlace};
use instar_vmm::Observer;

use super::Command;
use super::options::{FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::progress::show_lines;
use crate::running::Defaults;
use crate::streams;

/// The command.
pub const COMMAND: Command = Command {
    name: "map",
    group: Group::Look,
    about: "Show which parts of a disk hold data, and where it is.",
    operands: "FILE",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt::value("start-offset", "OFFSET", "where in the disk to begin").letter('s'),
        Opt::value("max-length", "LENGTH", "at most so many bytes of the disk").letter('l'),
        OUTPUT,
        FORCE_SHARE,
        OBJECT,
    ],
    stock: true,
    manual: &pages::MAP,
    run,
};

/// Shows records as they come, in large pieces.
struct Shown {
    state: Mutex<State>,
}

struct State {
    lines: MapLines,
    names: Vec<String>,
    text: String,
    failed: Option<Failure>,
}

#[derive(Clone, Copy)]
enum Failure {
    NoPlace,
    Output,
}

/// Text that waits before it is written.
const TEXT: usize = 1 << 20;
/// Records that are rendered before the text is looked at, in bytes.
const AT_ONCE: usize = 32 * MapRecord::LEN;
/// Longest name of a file, in bytes.
const NAME_MAX: usize = 4096;

impl State {
    fn write(&mut self) {
        let done = streams::show(&self.text);
        self.text.clear();
        if done.is_err() {
            self.failed.get_or_insert(Failure::Output);
        }
    }

    /// A record of names, as the first piece of the stream. Each stands in every line of its file, so they are made fit to
    /// be shown once; none is longer than the kernel would take.
    fn take_names(&mut self, bytes: &[u8]) {
        let shown = |name: &[u8]| terminal(name.get(..NAME_MAX).unwrap_or(name));
        self.names = bytes.split(|b| *b == 0).map(shown).collect();
    }
}

impl Observer for Shown {
    fn progress(&self, _done: u64, _total: u64) {}

    fn log(&self, level: u32, bytes: &[u8]) -> u64 {
        if level != LOG_RECORDS {
            return show_lines(level, bytes);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed.is_some() {
            return 0;
        }
        // The first piece names the files of the chain.
        if state.names.is_empty() {
            state.take_names(bytes);
            return 0;
        }
        let mut shown = 0;
        for records in bytes.chunks(AT_ONCE) {
            let State { lines, names, text, failed } = &mut *state;
            let before = text.len();
            let name = |file: u16| names.get(usize::from(file)).map_or("", String::as_str);
            if let Err(NoPlace) = lines.add(records, &name, text) {
                failed.get_or_insert(Failure::NoPlace);
            }
            shown += (text.len() - before) as u64;
            if text.len() > TEXT {
                state.write();
            }
            if state.failed.is_some() {
                break;
            }
        }
        shown
    }
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let json = super::info::wants_json(program, parsed)?;
    let size =
        |key: &str, what: &str| parsed.text(key).map(|text| program.size(&text, what, 0..=i64::MAX as u64)).transpose();
    let start = size("start-offset", "start offset")?.unwrap_or(0);
    let length = size("max-length", "max length")?;
    let [operand] = &parsed.operands[..] else { return Err(program.usage("Expecting one image file name")) };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    super::info::check_objects(program)?;
    let image = super::info::named(program, operand, parsed)?;
    let cache = program.cache(parsed, "cache", "cache", "writeback")?;
    let device = program.open_source(&image, cache, parsed.has("force-share"))?;
    let state = State {
        lines: MapLines::new(program.version, json),
        names: Vec::new(),
        text: if json { String::new() } else { MAP_HEAD.to_string() },
        failed: None,
    };
    let shown = Shown { state: Mutex::new(state) };
    let subject = operand.to_string_lossy();
    let mut call = Call::of(&image, device, parsed.has("force-share"));
    let params = Map { image: call.described(program)?.image(), start, length };
    let (status, ()) = program.run(params, call, 1, &Defaults::MAP, &subject, &shown)?;
    let mut state = shown.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if status != 0 && state.names.is_empty() {
        return Ok(status);
    }
    if state.failed.is_none() {
        let State { lines, text, .. } = &mut state;
        if status == 0 { lines.end(text) } else { lines.broken_off(text) }
    }
    state.write();
    match state.failed {
        None => Ok(status),
        Some(Failure::NoPlace) => Err(program.fail("File contains external, encrypted or compressed clusters.")),
        Some(Failure::Output) => Err(streams::output_error().map_or(Exit(1), |error| program.not_shown(&error))),
    }
}
