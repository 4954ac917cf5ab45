//! The settings: one row each. Files, variables, flags, help, man page and pins derive from this table.

use std::ffi::OsStr;

use instar_render::QemuVersion;
use instar_vmm::Isolation;
use instar_vmm::limits::GUEST_MEMORY_MIN;

use crate::getopt::Opt;
use crate::{report, sizes, workers};

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
    /// Where a report goes.
    Report,
    /// `json` or `rfc5424`.
    ReportFormat,
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

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Key in the configuration file, with its table.
    pub key: &'static str,
    /// What holds where nothing is said, in words.
    pub default: &'static str,
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

const fn setting(key: &'static str, variable: &'static str, default: &'static str, kind: Kind, flag: Opt) -> Setting {
    Setting { key, default, variable, flag, kind, stricter: Stricter::None, least: 0 }
}

impl Setting {
    const fn stricter(self, stricter: Stricter) -> Self {
        Self { stricter, ..self }
    }

    const fn at_least(self, least: u64) -> Self {
        Self { least, ..self }
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

/// Where a report of each run goes.
pub const REPORT: &str = "report.file";

/// How it is written.
pub const REPORT_FORMAT: &str = "report.format";

/// All settings.
pub const SETTINGS: &[Setting] = &[
    setting(
        "isolation",
        "INSTAR_ISOLATION",
        "auto",
        Kind::Isolation,
        Opt::value("isolation", "auto|kvm|process", "where images are read: a virtual machine or a bare process"),
    )
    .stricter(Stricter::Higher),
    setting(
        "qemu-version",
        "INSTAR_QEMU_VERSION",
        "11.1.3",
        Kind::Version,
        Opt::value("qemu-version", "X.Y[.Z]", "the qemu-img release whose output is imitated"),
    ),
    setting(
        ALLOW,
        "INSTAR_ALLOW_BACKING",
        "the directory of the image that names the file",
        Kind::Folders,
        Opt::value("allow-backing", "DIR", "images may name files below DIR (repeatable)"),
    ),
    setting(
        NONE,
        "INSTAR_NO_BACKING",
        "false",
        Kind::Switch,
        Opt::flag("no-backing", "images may name no other file at all: for uploads"),
    )
    .stricter(Stricter::Higher),
    setting(
        "limits.cpu-seconds",
        "INSTAR_MAX_CPU_SECONDS",
        "120 for what reads metadata, 2592000 for what moves data",
        Kind::Number,
        Opt::value("max-cpu-seconds", "N", "processor time the command may take"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.seconds",
        "INSTAR_MAX_SECONDS",
        "600 for what reads metadata, 2592000 for what moves data",
        Kind::Number,
        Opt::value("max-seconds", "N", "wall-clock time the command may take"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.guest-memory",
        "INSTAR_MAX_GUEST_MEMORY",
        "32M and 16M for each worker, 64M at least",
        Kind::Size,
        Opt::value("max-guest-memory", "SIZE", "memory of the sandbox"),
    )
    .stricter(Stricter::Lower)
    .at_least(GUEST_MEMORY_MIN),
    setting(
        "limits.requests",
        "INSTAR_MAX_REQUESTS",
        "10000000 for what reads metadata, 1099511627776 for what moves data",
        Kind::Number,
        Opt::value("max-requests", "N", "requests the sandbox may make"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.results",
        "INSTAR_MAX_RESULTS",
        "8M, 32M as they are shown, 1G of map",
        Kind::Size,
        Opt::value("max-results", "SIZE", "results of the sandbox, as they come and as they are shown"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.messages",
        "INSTAR_MAX_MESSAGES",
        "1M",
        Kind::Size,
        Opt::value("max-messages", "SIZE", "what the sandbox may have said on standard error"),
    )
    .stricter(Stricter::Lower),
    setting(
        "limits.output-growth",
        "INSTAR_MAX_OUTPUT_GROWTH",
        "8E",
        Kind::Size,
        Opt::value("max-output-growth", "SIZE", "bytes by which the files that are written may grow, all together"),
    )
    .stricter(Stricter::Lower),
    setting(
        workers::SETTING,
        "INSTAR_WORKERS",
        "the processors that may be used, 64 at most; for small images 8",
        Kind::Number,
        Opt::value("workers", "N", "how many workers move data at the same time"),
    )
    .stricter(Stricter::Lower)
    .at_least(1),
    setting(
        "extensions",
        "INSTAR_EXTENSIONS",
        "false",
        Kind::Switch,
        Opt::flag("extensions", "as qemu-img, too, do what only instar can"),
    ),
    setting(
        REPORT,
        "INSTAR_REPORT",
        "nowhere",
        Kind::Report,
        Opt::value("report", "FILE|fd:N|syslog", "a line of JSON about the run goes there"),
    ),
    setting(
        REPORT_FORMAT,
        "INSTAR_REPORT_FORMAT",
        "json",
        Kind::ReportFormat,
        Opt::value("report-format", "json|rfc5424", "that line alone, or behind the header of RFC 5424"),
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
            Self::Report => report::check(text).map(|()| 0),
            Self::ReportFormat if matches!(text, "json" | "rfc5424") => Ok(0),
            Self::ReportFormat => Err(format!("'{text}' is neither json nor rfc5424")),
        }
    }
}
