//! The effective configuration, and where each value comes from. Flags win over the environment, that over the user's
//! file, that over the system's; folders of all of them add up. What the system's file pins may be made stricter by the
//! others, and never looser.

pub mod document;
pub mod edit;
pub mod files;
pub mod profiles;
pub mod settings;
pub mod shown;
mod way;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use instar_render::QemuVersion;
use instar_vmm::Isolation;
use instar_vmm::policy::fold;

use crate::getopt::Parsed;
use files::{Found, Role};
pub use settings::SETTINGS;
use settings::{ALLOW, Kind, Setting, Stricter, by_key};

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

/// What one place says of one setting. Lists have any number of values, the others one.
#[derive(Clone, Debug)]
pub struct Said {
    /// Of which.
    pub setting: &'static Setting,
    /// What.
    pub values: Vec<OsString>,
    /// Where.
    pub origin: Origin,
    /// No other place may loosen it.
    pub pinned: bool,
}

impl Said {
    /// Whether this is no looser than what `pin` says.
    fn keeps(&self, pin: &Self) -> bool {
        let within = |folder: &OsString| {
            let folder = fold(&absolute(folder));
            pin.values.iter().any(|pinned| folder.starts_with(fold(&absolute(pinned))))
        };
        let rank = |said: &Self| said.values.last().map(|value| said.setting.kind.rank(value));
        match (self.setting.kind, self.setting.stricter) {
            (Kind::Folders, _) => self.values.iter().all(within),
            (_, Stricter::None) => self.values == pin.values,
            (_, Stricter::Higher) => rank(self) >= rank(pin),
            (_, Stricter::Lower) => rank(self) <= rank(pin),
        }
    }

    /// The values in a line.
    pub fn shown(&self) -> String {
        let values: Vec<_> = self.values.iter().map(|value| value.to_string_lossy()).collect();
        if values.is_empty() { "nothing".to_string() } else { values.join(":") }
    }
}

fn absolute(path: &OsStr) -> PathBuf {
    instar_vmm::target::absolute(Path::new(path))
}

/// What is configured: what every place says, the weakest first.
#[derive(Clone, Debug, Default)]
pub struct Config {
    said: Vec<Said>,
    /// The files that were looked for, and what became of them.
    pub looked_for: Vec<(PathBuf, &'static str)>,
}

impl Config {
    /// Reads files and environment, and then the flags. What was read before something was wrong stays.
    ///
    /// # Errors
    /// In words: a file that cannot be read or does not parse, a value that makes no sense or loosens a pinned one.
    pub fn load(&mut self, parsed: &Parsed) -> Result<(), String> {
        self.read_files(None)?;
        self.read_variables(|name| std::env::var_os(name));
        self.read_flags(parsed);
        self.check()?;
        self.check_folders()
    }

    /// Whether all files hold together when the one at `path` has that text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn check_with(path: &Path, text: &str) -> Result<(), String> {
        let mut config = Self::default();
        config.read_files(Some((path, text)))?;
        config.check()
    }

    fn read_files(&mut self, instead: Option<(&Path, &str)>) -> Result<(), String> {
        for place in files::places(|name| std::env::var_os(name)) {
            let found = match instead.filter(|(path, _)| *path == place.path) {
                Some((_, text)) => Ok(Found::Text(text.to_string())),
                None => place.read(),
            };
            let mut wrong = None;
            let state = match found {
                Ok(Found::Absent) => "not there",
                Ok(Found::Ignored(why)) => why,
                Ok(Found::Text(text)) => match document::read(&place.path, &text, place.role != Role::User) {
                    Ok(mut said) => {
                        said.retain(|said| said.pinned || place.role != Role::Pins);
                        self.said.append(&mut said);
                        if place.role == Role::Pins { "read for what it pins" } else { "read" }
                    }
                    Err(text) => {
                        wrong = Some(text);
                        "there, and wrong"
                    }
                },
                Err(text) => {
                    wrong = Some(text);
                    "cannot be read"
                }
            };
            self.looked_for.push((place.path, state));
            if let Some(text) = wrong {
                return Err(text);
            }
        }
        Ok(())
    }

    fn read_variables(&mut self, variable: impl Fn(&str) -> Option<OsString>) {
        for setting in SETTINGS {
            let Some(value) = variable(setting.variable).filter(|v| !v.is_empty()) else { continue };
            let values = elements(setting.kind, value);
            self.said.push(Said { setting, values, origin: Origin::Environment(setting.variable), pinned: false });
        }
    }

    fn read_flags(&mut self, parsed: &Parsed) {
        for setting in SETTINGS {
            let switch = setting.flag.argument.is_none();
            let given = parsed.all(setting.flag.long);
            let mut values: Vec<OsString> = given.map(|v| if switch { "true".into() } else { v.into() }).collect();
            if values.is_empty() {
                continue;
            }
            if setting.kind != Kind::Folders {
                values.drain(..values.len() - 1);
            }
            self.said.push(Said { setting, values, origin: Origin::Flag(setting.flag.long), pinned: false });
        }
    }

    fn check(&self) -> Result<(), String> {
        for said in &self.said {
            for value in &said.values {
                let checked = said.setting.check(value);
                checked.map_err(|e| format!("{} (from {}): {e}", said.setting.key, said.origin))?;
            }
        }
        for (place, pin) in self.said.iter().enumerate().filter(|(_, said)| said.pinned) {
            // What a weaker place says has no effect.
            let mut later = self.said[place + 1..].iter().filter(|said| said.setting.key == pin.setting.key);
            if let Some(looser) = later.find(|said| !said.keeps(pin)) {
                return Err(format!(
                    "{} is pinned to {} by {}; {} may not loosen it to {}",
                    pin.setting.key,
                    pin.shown(),
                    pin.origin,
                    looser.origin,
                    looser.shown()
                ));
            }
        }
        Ok(())
    }

    /// A folder that is allowed and not there allows nothing: better said than found out. Those of files were looked at.
    fn check_folders(&self) -> Result<(), String> {
        let here = |said: &&Said| matches!(said.origin, Origin::Environment(_) | Origin::Flag(_));
        for said in self.of(ALLOW).filter(here) {
            for folder in &said.values {
                let checked = document::check_is_there(Path::new(folder));
                checked.map_err(|e| format!("{ALLOW} (from {}): '{}' {e}", said.origin, folder.display()))?;
            }
        }
        Ok(())
    }

    /// Where a setting was said as it is in force; nowhere if it is the default.
    pub fn origin(&self, key: &str) -> Option<&Said> {
        self.of(key).next_back()
    }

    /// What pins a setting.
    pub fn pin(&self, key: &str) -> Option<&Said> {
        self.of(key).find(|said| said.pinned)
    }

    /// What is said of a setting, the weakest first.
    pub fn of(&self, key: &str) -> impl DoubleEndedIterator<Item = &Said> {
        self.said.iter().filter(move |said| said.setting.key == key)
    }

    /// What holds of a setting: the last word, or where folders add up all of them, unless they are pinned.
    pub fn in_force(&self, key: &str) -> Vec<&Said> {
        if by_key(key).is_some_and(|setting| setting.kind == Kind::Folders) {
            return self.pin(key).map_or_else(|| self.of(key).collect(), |pin| vec![pin]);
        }
        self.of(key).next_back().into_iter().collect()
    }

    fn parse<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        let Some(said) = self.of(key).next_back() else { return Ok(None) };
        let text = said.values.last().map_or("".into(), |value| value.to_string_lossy());
        read(&text).map(Some).map_err(|e| format!("{key} (from {}): {e}", said.origin))
    }

    /// Where the guest runs.
    pub fn isolation(&self) -> Result<Isolation, String> {
        Ok(self.parse("isolation", settings::isolation)?.unwrap_or(Isolation::Auto))
    }

    /// Which qemu-img is imitated.
    pub fn version(&self) -> Result<QemuVersion, String> {
        Ok(self.parse("qemu-version", str::parse)?.unwrap_or_default())
    }

    /// A switch.
    pub fn flag(&self, key: &str) -> Result<bool, String> {
        Ok(self.parse(key, settings::switch)?.unwrap_or(false))
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<Option<u64>, String> {
        self.parse(key, settings::number)
    }

    /// Seconds.
    pub fn seconds(&self, key: &str) -> Result<Option<Duration>, String> {
        Ok(self.number(key)?.map(Duration::from_secs))
    }

    /// A size in bytes.
    pub fn size(&self, key: &str) -> Result<Option<u64>, String> {
        self.parse(key, settings::size)
    }

    /// The directories that images may refer to besides their own.
    pub fn allowed(&self) -> Vec<PathBuf> {
        self.in_force(ALLOW).iter().flat_map(|said| &said.values).map(|path| absolute(path)).collect()
    }
}

fn elements(kind: Kind, value: OsString) -> Vec<OsString> {
    if kind != Kind::Folders {
        return vec![value];
    }
    let parts = value.as_bytes().split(|b| *b == b':').filter(|part| !part.is_empty());
    parts.map(|part| OsString::from_vec(part.to_vec())).collect()
}

#[cfg(test)]
mod tests;
