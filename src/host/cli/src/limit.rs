//! What to do about a limit that was reached, and about a virtual machine that is not to be had: by whose word it is so.

use std::sync::Arc;

use instar_render::escape::terminal;
use instar_vmm::limits::GROWTH;
use instar_vmm::{Failure, LastWords};

use crate::config::settings::{SETTINGS, Setting};
use crate::config::{Config, Origin};
use crate::program::Program;
use crate::{commands, streams};

/// The limit on growth as what ended the command, unless nobody has set any.
pub fn of_growth(bytes: u64) -> Option<Failure> {
    let (name, flag) = GROWTH;
    (bytes < i64::MAX as u64).then(|| Failure::Limit { name, flag, value: format!("{bytes} bytes") })
}

/// That a limit was reached, with its name, flag and value. `subject` is escaped.
pub fn words(subject: &str, (name, flag, value): (&str, &str, &str), config: &Config) -> String {
    format!("'{subject}': the limit on {name} was reached ({value}); {}", way_out(flag, config))
}

/// For a command that ends in the middle of it.
pub fn last_words(program: &Program, subject: &str) -> LastWords {
    let (name, config, subject) = (program.name, program.config.clone(), terminal(subject.as_bytes()));
    // 1 would say of images that they differ.
    let status = if program.command == commands::compare::COMMAND.name { 2 } else { 1 };
    let report = program.report.clone();
    let tell = move |failure: &Failure| {
        if let Failure::Limit { name: limit, flag, value } = failure {
            streams::tell(&format!("{name}: {}\n", words(&subject, (limit, flag, value), &config)));
            // That there is no report is told by nobody any more: this is the end.
            if let Some(report) = &report {
                report.limit(limit, flag, value);
                let _ = report.write(status);
            }
        }
    };
    LastWords { tell: Arc::new(tell), status }
}

/// What can be done about the limit that `flag` sets.
pub fn way_out(flag: &str, config: &Config) -> String {
    let setting = SETTINGS.iter().find(|setting| flag.strip_prefix("--") == Some(setting.flag.long));
    let Some((setting, pin)) = setting.and_then(|setting| Some((setting, config.pin(setting.key)?))) else {
        return format!("{flag} raises it");
    };
    let rank = |values: &[std::ffi::OsString]| values.last().map(|value| setting.kind.rank(value));
    if config.origin(setting.key).is_none_or(|said| rank(&said.values) == rank(&pin.values)) {
        return format!("{} is pinned by {}", setting.key, pin.origin);
    }
    format!("{flag} raises it, up to {}, to which {} is pinned by {}", pin.shown(), setting.key, pin.origin)
}

/// Who says that a setting has the value that it has, as he says it.
pub fn source(setting: &Setting, value: &str, config: &Config) -> String {
    let said = config.origin(setting.key);
    let pinned = if said.is_some_and(|said| said.pinned) { ", which pins it" } else { "" };
    match said.map(|said| &said.origin) {
        Some(Origin::Flag(name)) if setting.flag.argument.is_some() => format!("--{name} {value}"),
        Some(Origin::Flag(name)) => format!("--{name}"),
        Some(Origin::Environment(name)) => format!("{name}={value}"),
        Some(Origin::File(path)) => format!("'{} = {value}' in {}{pinned}", setting.key, path.display()),
        Some(Origin::Default) | None => format!("{} {value}", setting.key),
    }
}
