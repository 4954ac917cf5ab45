//! What every command shares: the name it was called by, and the messages.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use instar_render::version::{QemuVersion, UsageStyle};
use instar_vmm::policy::Asked;
use instar_vmm::target::Cache;

use crate::config::Config;
use crate::getopt::{Parsed, Wrong};
use crate::hints::Full;
use crate::report::Report;
use crate::room::Room;
use crate::secrets::Secrets;
use crate::{sizes, streams};

/// A command's way out: what it said is said.
#[derive(Debug)]
pub struct Exit(pub u8);

/// The program as it was called.
pub struct Program {
    /// `qemu-img` or `instar`: what messages begin with.
    pub name: &'static str,
    /// The command, once it is known.
    pub command: &'static str,
    /// Whose output.
    pub version: QemuVersion,
    /// The configuration.
    pub config: Config,
    /// What is wrong with it: then only the command for it goes on.
    pub misconfigured: Option<String>,
    /// `--verbose`.
    pub verbose: bool,
    /// `--object secret`, until they are handed to the guest.
    pub secrets: RefCell<Secrets>,
    /// What may still be shown of what the guest has told.
    pub room: Cell<Room>,
    /// What runs in the sandbox instead of instar's own guest.
    pub guest: Option<&'static [u8]>,
    /// Files that the user named, besides the images: images may name them, too.
    pub vouched: RefCell<Vec<PathBuf>>,
    /// The user said `force-share=on` of an image.
    pub force_share: Cell<bool>,
    /// What images named in the run, and what came of it.
    pub asked: RefCell<Vec<Asked>>,
    /// The limit on what files grow by, if it was too little: then an error is about that, whatever the guest makes of it.
    pub outgrown: Cell<Option<u64>>,
    /// What the user can do about a name that was refused.
    pub way_out: RefCell<Option<String>>,
    /// What the user named: operands, and files that options take.
    pub named: Vec<OsString>,
    /// What the user gave options that take something else; no secrets.
    pub values: Vec<OsString>,
    /// Whose rights it has: afterwards the lock-down forbids to ask.
    pub user: u32,
    /// What is told of the run besides.
    pub report: Option<Arc<Report>>,
    /// A hint was given: one is enough.
    pub hinted: Cell<bool>,
    /// What is free, and what was needed, where a file system was full.
    pub full: RefCell<Option<Full>>,
}

impl Program {
    /// Whether everything has to look as the stock tool's.
    pub fn is_stock(&self) -> bool {
        self.name == "qemu-img"
    }

    /// A message on standard error; the lines after the first as they are.
    pub fn say(&self, message: &str) {
        streams::tell(&format!("{}: {message}\n", self.name));
    }

    /// A message, and exit status 1.
    pub fn fail(&self, message: &str) -> Exit {
        self.say(message);
        self.advise(message, None);
        Exit(1)
    }

    /// The line that says where help is to be had; `command` empty before there is one.
    fn say_where_help_is(&self) {
        let target = match self.version.usage() {
            UsageStyle::General => self.name.to_string(),
            _ if self.command.is_empty() => self.name.to_string(),
            _ => format!("{} {}", self.name, self.command),
        };
        let end = if self.version.usage() == UsageStyle::CommandInfo { "info" } else { "information" };
        streams::tell(&format!("Try '{target} --help' for more {end}\n"));
    }

    /// Arguments that make no sense.
    pub fn usage(&self, message: &str) -> Exit {
        self.say(message);
        self.say_where_help_is();
        self.advise(message, None);
        Exit(1)
    }

    /// Options that do not parse.
    pub fn wrong(&self, wrong: &Wrong) -> Exit {
        if self.version.usage() == UsageStyle::General {
            return self.usage(&match wrong {
                Wrong::Missing(option) => format!("missing argument for option '{option}'"),
                Wrong::Unknown(typed) | Wrong::Ambiguous(typed, _) | Wrong::Unwanted(_, typed) => {
                    format!("unrecognized option '{typed}'")
                }
                Wrong::NotText(option) => not_text(option),
            });
        }
        let text = match wrong {
            Wrong::Unknown(typed) if typed.starts_with("--") => format!("unrecognized option '{typed}'"),
            Wrong::Unknown(typed) => format!("invalid option -- '{}'", typed.trim_start_matches('-')),
            Wrong::Missing(option) if option.starts_with("--") => format!("option '{option}' requires an argument"),
            Wrong::Missing(option) => format!("option requires an argument -- '{}'", option.trim_start_matches('-')),
            Wrong::Unwanted(option, _) => format!("option '{option}' doesn't allow an argument"),
            Wrong::NotText(option) => not_text(option),
            Wrong::Ambiguous(typed, names) => {
                let names: Vec<String> = names.iter().map(|n| format!("'--{n}'")).collect();
                format!("option '{typed}' is ambiguous; possibilities: {}", names.join(" "))
            }
        };
        match self.command {
            "" => self.say(&text),
            command => streams::tell(&format!("{} {command}: {text}\n", self.name)),
        }
        self.say_where_help_is();
        self.advise(&text, None);
        Exit(1)
    }

    /// Standard output, all at once.
    pub fn print(&self, text: &str) -> Result<(), Exit> {
        streams::show(text).map_err(|error| self.not_shown(&error))
    }

    /// Standard output cannot be written to. A reader that went away need not be told.
    pub fn not_shown(&self, error: &io::Error) -> Exit {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Exit(1);
        }
        self.fail(&format!("cannot write to standard output: {}", plain(error)))
    }

    /// A number of bytes (or of what `what` says) within bounds.
    pub fn size(&self, text: &str, what: &str, bounds: RangeInclusive<u64>) -> Result<u64, Exit> {
        let below = self.version.reads_negative_sizes() && sizes::is_negative(text);
        match sizes::parse(text) {
            Some(n) if bounds.contains(&n) => Ok(n),
            None if !below && !sizes::is_out_of_range(text) => Err(self.fail(&self.version.bad_size(what, text))),
            _ => {
                let (least, most) = (bounds.start(), bounds.end());
                Err(self.fail(&format!("Invalid {what} specified. Must be between {least} and {most}.")))
            }
        }
    }

    /// `-t` and `-T`: the mode that option `key` names.
    pub fn cache(&self, parsed: &Parsed, key: &str, what: &str, default: &str) -> Result<Cache, Exit> {
        let name = parsed.text(key).unwrap_or_else(|| default.to_string());
        Cache::by_name(&name).ok_or_else(|| self.fail(&format!("Invalid {what} option: {name}")))
    }
}

fn not_text(option: &str) -> String {
    format!("the argument of option '{option}' is not UTF-8, and would be taken for another one")
}

/// The system's text for an error, without Rust's number behind it.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}
