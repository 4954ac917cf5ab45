//! The settings: one row each. Files, variables, flags, help, manual, sample and pins derive from this table.

use std::ffi::OsStr;

use instar_render::QemuVersion;
use instar_vmm::Isolation;
use instar_vmm::limits::GUEST_MEMORY_MIN;

use crate::getopt::Opt;
use crate::running::{Defaults, RESULT_BYTES};
use crate::{sizes, workers};

/// What a setting's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `auto`, `kvm`, `process`.
    Isolation,
    /// A release of qemu-img.
    Version,
    /// Folders, which add up.
    Folders,
    /// True or false.
    Switch,
    /// A number.
    Number,
    /// Bytes.
    Size,
}

/// In which direction a value is stricter: what may still be said of a pinned setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stricter {
    /// In none: a pinned value stands.
    None,
    /// Upwards.
    Higher,
    /// Downwards.
    Lower,
}

/// What holds where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsaid {
    /// A value, as it would be said.
    Fixed(&'static str),
    /// Numbers, or bytes: each for what.
    Parts(&'static [(&'static str, u64)]),
    /// What it depends on.
    Computed(&'static str),
}

use Unsaid::{Computed, Fixed, Parts};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Key in the configuration file, with its table.
    pub key: &'static str,
    /// What holds where nothing is said.
    pub unsaid: Unsaid,
    /// Environment variable.
    pub variable: &'static str,
    /// Flag, accepted by every command.
    pub flag: Opt,
    /// What it takes.
    pub kind: Kind,
    /// How it may differ from a pinned value.
    pub stricter: Stricter,
    /// The least that makes sense, if any value is too little.
    pub least: u64,
}

const fn setting(key: &'static str, variable: &'static str, unsaid: Unsaid, kind: Kind, flag: Opt) -> Setting {
    Setting { key, unsaid, variable, flag, kind, stricter: Stricter::None, least: 0 }
}

impl Setting {
    const fn stricter(self, stricter: Stricter) -> Self {
        Self { stricter, ..self }
    }

    const fn at_least(self, least: u64) -> Self {
        Self { least, ..self }
    }

    /// What holds where nothing is said, in words.
    pub fn unsaid_in_words(&self) -> String {
        match self.unsaid {
            Fixed(text) | Computed(text) => text.to_string(),
            Parts(parts) => parts.iter().map(|(what, n)| self.part_in_words(what, *n)).collect::<Vec<_>>().join(", "),
        }
    }

    /// One of the numbers that hold where nothing is said.
    pub fn part_in_words(&self, what: &str, number: u64) -> String {
        match self.kind {
            Kind::Size => format!("{}M ({what})", number >> 20),
            _ => format!("{number} ({what})"),
        }
    }

    /// Whether a value makes sense.
    pub fn check(&self, value: &OsStr) -> Result<(), String> {
        let rank = self.kind.rank(value)?;
        if rank < self.least {
            let least = match self.kind {
                Kind::Size => format!("{}M", self.least >> 20),
                _ => self.least.to_string(),
            };
            return Err(format!("with {} nothing can run; the least is {least}", value.to_string_lossy()));
        }
        Ok(())
    }
}

/// The list of folders.
pub const ALLOW: &str = "backing.allow";

/// The switch that allows none.
pub const NONE: &str = "backing.none";

/// All settings.
pub const SETTINGS: &[Setting] = &[
    setting(
        "isolation",
        "INSTAR_ISOLATION",
        Fixed("auto"),
        Kind::Isolation,
        Opt::value("isolation", "auto|kvm|process", "where images are read: a virtual machine or a bare process"),
    )
    .stricter(Stricter::Higher),
    setting(
        "qemu-version",
        "INSTAR_QEMU_VERSION",
        Fixed("11.1.3"),
        Kind::Version,
        Opt::value("qemu-version", "X.Y[.Z]", "the qemu-img release whose output is imitated"),
    ),
    setting(
        ALLOW,
        "INSTAR_ALLOW_BACKING",
        Computed("the directory of the image itself"),
        Kind::Folders,
        Opt::value("allow-backing", "DIR", "images may name files below DIR (repeatable)"),
    ),
    setting(
        NONE,
        "INSTAR_NO_BACKING",
        Fixed("false"),
        Kind::Switch,
        Opt::flag("no-backing", "images may name no other file at all: for uploads"),
    )
    .stricter(Stricter::Higher),
    setting(
        "limits.cpu-seconds",
        "INSTAR_MAX_CPU_SECONDS",
        Parts(&[("metadata", Defaults::METADATA.cpu.as_secs()), ("data", Defaults::DATA.cpu.as_secs())]),
        Kind::Number,
        Opt::value("max-cpu-seconds", "N", "processor time the command may take"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.seconds",
        "INSTAR_MAX_SECONDS",
        Parts(&[("metadata", Defaults::METADATA.wall.as_secs()), ("data", Defaults::DATA.wall.as_secs())]),
        Kind::Number,
        Opt::value("max-seconds", "N", "wall-clock time the command may take"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.guest-memory",
        "INSTAR_MAX_GUEST_MEMORY",
        Computed("32M and 16M a worker, 64M at least"),
        Kind::Size,
        Opt::value("max-guest-memory", "SIZE", "memory of the sandbox"),
    )
    .stricter(Stricter::Lower)
    .at_least(GUEST_MEMORY_MIN),
    setting(
        "limits.requests",
        "INSTAR_MAX_REQUESTS",
        Parts(&[("metadata", Defaults::METADATA.requests), ("data", Defaults::DATA.requests)]),
        Kind::Number,
        Opt::value("max-requests", "N", "requests the sandbox may make"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.results",
        "INSTAR_MAX_RESULTS",
        Parts(&[("told", RESULT_BYTES), ("shown", Defaults::DATA.shown), ("shown-map", Defaults::MAP.shown)]),
        Kind::Size,
        Opt::value("max-results", "SIZE", "results of the sandbox, as they come and as they are shown"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.messages",
        "INSTAR_MAX_MESSAGES",
        Fixed("1M"),
        Kind::Size,
        Opt::value("max-messages", "SIZE", "what the sandbox may have said on standard error"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.output-growth",
        "INSTAR_MAX_OUTPUT_GROWTH",
        Fixed("8E"),
        Kind::Size,
        Opt::value("max-output-growth", "SIZE", "bytes by which the files that are written may grow, all together"),
    )
    .stricter(Stricter::Lower),
    setting(
        workers::SETTING,
        "INSTAR_WORKERS",
        Computed("the processors, at most 64, or 8 for small images"),
        Kind::Number,
        Opt::value("workers", "N", "how many workers move data at the same time"),
    )
    .stricter(Stricter::Lower)
    .at_least(1),
    setting(
        "extensions",
        "INSTAR_EXTENSIONS",
        Fixed("false"),
        Kind::Switch,
        Opt::flag("extensions", "as qemu-img, too, do what only instar can"),
    ),
];

/// The setting of that key.
pub fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// `auto`, `kvm`, `process`.
pub fn isolation(text: &str) -> Result<Isolation, String> {
    match text {
        "auto" => Ok(Isolation::Auto),
        "kvm" => Ok(Isolation::Kvm),
        "process" => Ok(Isolation::Process),
        other => Err(format!("'{other}' is none of auto, kvm, process")),
    }
}

/// True or false.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("'{other}' is neither true nor false")),
    }
}

/// A number.
pub fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("'{text}' is no number"))
}

/// Bytes.
pub fn size(text: &str) -> Result<u64, String> {
    sizes::parse(text).ok_or_else(|| format!("'{text}' is no size"))
}

impl Kind {
    /// The value as a number, by which values are compared. Folders and releases have no order, and are all 0.
    pub fn rank(self, value: &OsStr) -> Result<u64, String> {
        if self == Self::Folders {
            return Ok(0);
        }
        let text = value.to_str().ok_or_else(|| format!("'{}' is not UTF-8", value.to_string_lossy()))?;
        match self {
            Self::Folders => Ok(0),
            Self::Version => text.parse::<QemuVersion>().map(|_| 0),
            // A process is what is left where there is no virtual machine: it can be had by `auto`, too.
            Self::Isolation => isolation(text).map(|isolation| match isolation {
                Isolation::Process => 0,
                Isolation::Auto => 1,
                Isolation::Kvm => 2,
            }),
            Self::Switch => switch(text).map(u64::from),
            Self::Number => number(text),
            Self::Size => size(text),
        }
    }
}
