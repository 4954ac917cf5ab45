//! The effective configuration, and where each value comes from. Flags win over the environment, that over the user's
//! file, that over the system's.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use instar_render::QemuVersion;
use instar_vmm::Isolation;

use crate::getopt::{Opt, Parsed};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(&'static str),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// Every setting: key in a file, flag, environment variable, help.
pub struct Setting {
    /// Key in the configuration file, with its table.
    pub key: &'static str,
    /// What holds where nothing is said, in words.
    pub default: &'static str,
    /// Environment variable.
    pub variable: Option<&'static str>,
    /// Flag, accepted by every command.
    pub flag: Opt,
}

const fn flag(long: &'static str, argument: Option<&'static str>, help: &'static str) -> Opt {
    Opt { long, also: &[], short: None, argument, help }
}

/// All settings.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "isolation",
        default: "auto",
        variable: Some("INSTAR_ISOLATION"),
        flag: flag("isolation", Some("auto|kvm|process"), "where images are read: a virtual machine or a bare process"),
    },
    Setting {
        key: "qemu-version",
        default: "11.1.3",
        variable: Some("INSTAR_QEMU_VERSION"),
        flag: flag("qemu-version", Some("X.Y[.Z]"), "the qemu-img release whose output is imitated"),
    },
    Setting {
        key: "backing.allow",
        default: "the directory of the image that names the file",
        variable: Some("INSTAR_ALLOW_BACKING"),
        flag: flag("allow-backing", Some("DIR"), "images may name files below DIR (repeatable)"),
    },
    Setting {
        key: "backing.none",
        default: "false",
        variable: None,
        flag: flag("no-backing", None, "images may name no other file at all: for uploads"),
    },
    Setting {
        key: "limits.cpu-seconds",
        default: "120 for what reads metadata, 2592000 for what moves data",
        variable: None,
        flag: flag("max-cpu-seconds", Some("N"), "processor time the command may take"),
    },
    Setting {
        key: "limits.seconds",
        default: "600 for what reads metadata, 2592000 for what moves data",
        variable: None,
        flag: flag("max-seconds", Some("N"), "wall-clock time the command may take"),
    },
    Setting {
        key: "limits.guest-memory",
        default: "64M",
        variable: None,
        flag: flag("max-guest-memory", Some("SIZE"), "memory of the sandbox"),
    },
    Setting {
        key: "limits.requests",
        default: "10000000 for what reads metadata, 1099511627776 for what moves data",
        variable: None,
        flag: flag("max-requests", Some("N"), "requests the sandbox may make"),
    },
    Setting {
        key: "limits.results",
        default: "8M, 64M as they are shown, 1G of map",
        variable: None,
        flag: flag("max-results", Some("SIZE"), "results of the sandbox, as they come and as they are shown"),
    },
    Setting {
        key: "limits.messages",
        default: "1M",
        variable: None,
        flag: flag("max-messages", Some("SIZE"), "what the sandbox may have said on standard error"),
    },
    Setting {
        key: "limits.output-growth",
        default: "8E",
        variable: None,
        flag: flag("max-output-growth", Some("SIZE"), "length up to which the output may grow"),
    },
    Setting {
        key: "extensions",
        default: "false",
        variable: None,
        flag: flag("extensions", None, "as qemu-img, too, do what only instar can"),
    },
];

/// What is configured: text by key, with where it comes from. Lists hold one entry an element.
#[derive(Debug, Default)]
pub struct Config {
    values: Vec<(&'static str, String, Origin)>,
}

impl Config {
    /// Reads files and environment, and then the flags.
    ///
    /// # Errors
    /// In words: a file that does not parse, a value that makes no sense. A file that is not there or cannot be
    /// read is no error: under confinement none can.
    pub fn load(parsed: &Parsed) -> Result<Self, String> {
        let mut config = Self::default();
        for path in files() {
            if let Ok(text) = std::fs::read_to_string(&path) {
                config.read_file(&path, &text)?;
            }
        }
        for setting in SETTINGS {
            let Some(name) = setting.variable else { continue };
            let Some(value) = std::env::var_os(name).filter(|v| !v.is_empty()) else { continue };
            config.forget(setting.key);
            for part in elements(setting.key, &value) {
                config.values.push((setting.key, part, Origin::Environment(name)));
            }
        }
        for setting in SETTINGS {
            let given: Vec<String> = parsed
                .all(setting.flag.long)
                .map(|v| if setting.flag.argument.is_none() { "true".into() } else { v.to_string_lossy().into_owned() })
                .collect();
            if given.is_empty() {
                continue;
            }
            // Directories add up; of anything else the last wins.
            if setting.key != ALLOW {
                config.forget(setting.key);
            }
            for value in given {
                config.values.push((setting.key, value, Origin::Flag(setting.flag.long)));
            }
        }
        config.check()?;
        Ok(config)
    }

    fn read_file(&mut self, path: &Path, text: &str) -> Result<(), String> {
        let wrong = |what: String| format!("{}: {what}", path.display());
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| wrong(e.to_string().trim_end().to_string()))?;
        for (key, value) in flatten(&table) {
            let setting = SETTINGS.iter().find(|s| s.key == key);
            let setting = setting.ok_or_else(|| wrong(format!("there is no setting '{key}'")))?;
            self.forget(setting.key);
            let items = match value {
                toml::Value::Array(items) => items,
                other => vec![other],
            };
            for item in items {
                let text = match item {
                    toml::Value::String(text) => text,
                    toml::Value::Integer(n) => n.to_string(),
                    toml::Value::Boolean(b) => b.to_string(),
                    _ => return Err(wrong(format!("'{key}' has a value of the wrong type"))),
                };
                self.values.push((setting.key, text, Origin::File(path.to_path_buf())));
            }
        }
        Ok(())
    }

    fn forget(&mut self, key: &str) {
        self.values.retain(|(k, ..)| *k != key);
    }

    fn get(&self, key: &str) -> Option<(&str, &Origin)> {
        self.values.iter().rev().find(|(k, ..)| *k == key).map(|(_, v, o)| (v.as_str(), o))
    }

    fn parse<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        let Some((text, origin)) = self.get(key) else { return Ok(None) };
        read(text).map(Some).map_err(|e| format!("{key} (from {origin}): {e}"))
    }

    fn check(&self) -> Result<(), String> {
        self.isolation()?;
        self.version()?;
        self.flag("backing.none")?;
        self.flag("extensions")?;
        for key in ["limits.cpu-seconds", "limits.seconds", "limits.requests"] {
            self.number(key)?;
        }
        for key in ["limits.guest-memory", "limits.results", "limits.messages", "limits.output-growth"] {
            self.size(key)?;
        }
        Ok(())
    }

    /// Where the guest runs.
    pub fn isolation(&self) -> Result<Isolation, String> {
        let read = |text: &str| match text {
            "auto" => Ok(Isolation::Auto),
            "kvm" => Ok(Isolation::Kvm),
            "process" => Ok(Isolation::Process),
            other => Err(format!("'{other}' is none of auto, kvm, process")),
        };
        Ok(self.parse("isolation", read)?.unwrap_or(Isolation::Auto))
    }

    /// Which qemu-img is imitated.
    pub fn version(&self) -> Result<QemuVersion, String> {
        Ok(self.parse("qemu-version", str::parse)?.unwrap_or_default())
    }

    /// A switch.
    pub fn flag(&self, key: &str) -> Result<bool, String> {
        let read = |text: &str| text.parse().map_err(|_| format!("'{text}' is neither true nor false"));
        Ok(self.parse(key, read)?.unwrap_or(false))
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<Option<u64>, String> {
        self.parse(key, |text| text.parse().map_err(|_| format!("'{text}' is no number")))
    }

    /// Seconds.
    pub fn seconds(&self, key: &str) -> Result<Option<Duration>, String> {
        Ok(self.number(key)?.map(Duration::from_secs))
    }

    /// A size in bytes.
    pub fn size(&self, key: &str) -> Result<Option<u64>, String> {
        self.parse(key, |text| crate::sizes::parse(text).ok_or_else(|| format!("'{text}' is no size")))
    }

    /// The directories that images may refer to besides their own.
    pub fn allowed(&self) -> Vec<PathBuf> {
        let given = self.values.iter().filter(|(key, ..)| *key == ALLOW);
        given.map(|(_, path, _)| instar_vmm::target::absolute(Path::new(path))).collect()
    }

    /// Every setting with its value in force and where that comes from.
    pub fn rows(&self) -> Vec<(&'static str, Vec<String>, String)> {
        SETTINGS
            .iter()
            .map(|setting| {
                let given: Vec<_> = self.values.iter().filter(|(key, ..)| *key == setting.key).collect();
                let origin = given.last().map_or(Origin::Default, |(.., origin)| origin.clone());
                let values = match given[..] {
                    [] => vec![setting.default.to_string()],
                    _ => given.iter().map(|(_, value, _)| value.clone()).collect(),
                };
                (setting.key, values, origin.to_string())
            })
            .collect()
    }
}

const ALLOW: &str = "backing.allow";

fn elements(key: &str, value: &OsStr) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if key == ALLOW {
        return value.as_bytes().split(|b| *b == b':').filter(|d| !d.is_empty()).map(text).collect();
    }
    vec![text(value.as_bytes())]
}

/// The files, the weakest first.
fn files() -> Vec<PathBuf> {
    if let Some(only) = std::env::var_os("INSTAR_CONFIG") {
        return vec![only.into()];
    }
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")))
        .map(|folder| folder.join("instar/config.toml"));
    std::iter::once(PathBuf::from("/etc/instar/config.toml")).chain(user).collect()
}

/// `table.key` for everything in a file of at most two levels.
fn flatten(table: &toml::Table) -> Vec<(String, toml::Value)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                flat.extend(inner.iter().map(|(k, v)| (format!("{key}.{k}"), v.clone())));
            }
            other => flat.push((key.clone(), other.clone())),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_file_replaces_what_an_earlier_one_says() {
        let mut config = Config::default();
        let system = "isolation = 'process'\n[backing]\nallow = ['/a', '/b']\n[limits]\nseconds = 5\n";
        config.read_file(Path::new("system"), system).expect("valid");
        config.read_file(Path::new("user"), "[backing]\nallow = '/c'\nnone = true\n").expect("valid");
        config.check().expect("valid");
        assert_eq!(config.isolation(), Ok(Isolation::Process));
        assert_eq!(config.allowed(), [PathBuf::from("/c")]);
        assert_eq!(config.flag("backing.none"), Ok(true));
        assert_eq!(config.seconds("limits.seconds"), Ok(Some(Duration::from_secs(5))));
        let origin = |key| config.rows().into_iter().find(|(k, ..)| *k == key).map(|(.., origin)| origin);
        assert_eq!(origin("isolation").as_deref(), Some("system"));
        assert_eq!(origin("backing.allow").as_deref(), Some("user"));
        assert_eq!(origin("extensions").as_deref(), Some("default"));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_name() {
        let told = |text: &str| Config::default().read_file(Path::new("f"), text).expect_err("wrong");
        assert!(told("isolation = 'x").starts_with("f: TOML parse error at line 1"));
        assert_eq!(told("[limits]\nnosuch = 1"), "f: there is no setting 'limits.nosuch'");
        assert_eq!(told("isolation = 1.5"), "f: 'isolation' has a value of the wrong type");
    }

    #[test]
    fn every_default_is_what_holds() {
        let none = Config::default();
        let default = |key| SETTINGS.iter().find(|s| s.key == key).map_or("", |s| s.default);
        assert_eq!(none.version().map(|v| v.to_string()).as_deref(), Ok(default("qemu-version")));
        assert_eq!(none.isolation(), Ok(Isolation::Auto));
        assert_eq!(elements("backing.allow", OsStr::new("/a::/b")), ["/a", "/b"]);
        assert_eq!(elements("isolation", OsStr::new("a:b")), ["a:b"]);
    }
}
