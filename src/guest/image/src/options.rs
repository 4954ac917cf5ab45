//! `-o name=value,...`: the option table of a format, and what the user said.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::values::{boolean, number, size};
use crate::{Error, Result, driver_options};

/// How an option's value is written; the text of `-o help` follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// `<str>`
    Text,
    /// `<size>`: bytes, with a suffix k M G T P E
    Size,
    /// `<num>`
    Number,
    /// `<bool (on/off)>`
    Bool,
}

/// One option of `create -o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: OptionKind,
    /// What `-o help` says, in qemu-img's words (its interface text).
    pub help: &'static str,
}

impl OptionSpec {
    /// The option of that name.
    #[must_use]
    pub const fn new(name: &'static str, kind: OptionKind, help: &'static str) -> Self {
        Self { name, kind, help }
    }
}

/// Options of the file that an image is in, which follow those of every format (`-o help`).
pub mod of_file {
    use super::{OptionKind, OptionSpec, Options};
    use crate::{Error, Result};

    /// For XFS.
    pub const EXTENT_SIZE_HINT: OptionSpec = OptionSpec {
        name: "extent_size_hint",
        kind: OptionKind::Size,
        help: "Extent size hint for the image file, 0 to disable",
    };
    /// For btrfs.
    pub const NOCOW: OptionSpec =
        OptionSpec { name: "nocow", kind: OptionKind::Bool, help: "Turn off copy-on-write (valid only on btrfs)" };
    /// Of the file alone.
    pub const PREALLOCATION: OptionSpec = OptionSpec {
        name: "preallocation",
        kind: OptionKind::Text,
        help: "Preallocation mode (allowed values: off, falloc, full)",
    };

    /// Checks the preallocation of a file that is made empty, where any that there is changes nothing.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn check_preallocation(options: &Options) -> Result<()> {
        match options.get("preallocation") {
            None | Some("off" | "falloc" | "full") => Ok(()),
            Some("metadata") => Err(Error::unsupported("Unsupported preallocation mode: metadata")),
            Some(other) => Err(Error::usage(alloc::format!("invalid parameter value: {other}"))),
        }
    }
}

/// What the user said, name and value in the order given; the last of a repeated name wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    entries: Vec<(String, String)>,
}

/// Splits `a=b,c=d` at single commas (`,,` is a comma in a value). A word without `=` is `word=on`, and
/// `noword` is `word=off`, as QEMU reads them.
#[must_use]
pub fn split(text: &str) -> Vec<(String, String)> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.peek() == Some(&',') => {
                chars.next();
                word.push(',');
            }
            ',' => words.push(core::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words
        .into_iter()
        .filter(|w| !w.is_empty())
        .map(|w| match w.split_once('=') {
            Some((name, value)) => (name.to_string(), value.to_string()),
            None => match w.strip_prefix("no") {
                Some(name) if !name.is_empty() => (name.to_string(), "off".to_string()),
                _ => (w, "on".to_string()),
            },
        })
        .collect()
}

impl Options {
    /// Reads the texts of all `-o` in turn and checks the names. `more`: what else is to be said of a name that `specs` does not
    /// have.
    ///
    /// # Errors
    /// `Invalid parameter 'x'` for such a name; a size that is none.
    pub fn parse(texts: &[&str], specs: &[OptionSpec], more: &dyn Fn(&str) -> &'static str) -> Result<Self> {
        let mut entries = Vec::new();
        for (name, value) in texts.iter().flat_map(|t| split(t)) {
            let Some(spec) = specs.iter().find(|s| s.name == name) else {
                let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
                return Err(Error::usage(alloc::format!("Invalid parameter '{name}'{}", more(&name)))
                    .with_hint(alloc::format!("the options here: {}", names.join(", "))));
            };
            match spec.kind {
                OptionKind::Size => drop(size(&name, &value)?),
                OptionKind::Number => drop(number(&name, &value)?),
                OptionKind::Bool => drop(boolean(&name, &value)?),
                OptionKind::Text => {}
            }
            entries.push((name, value));
        }
        Ok(Self { entries })
    }

    /// The text given for `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Says `name=value` in the user's stead (for flags that mean an option, such as `-B`).
    pub fn set(&mut self, name: &str, value: &str) {
        self.entries.push((name.to_string(), value.to_string()));
    }
}

/// Options of every open image, whatever its format: how it is cached, locked and called. They change nothing of
/// what is read.
const OF_EVERY_IMAGE: [&str; 8] = [
    "read-only",
    "auto-read-only",
    "force-share",
    "node-name",
    "discard",
    "detect-zeroes",
    "cache.direct",
    "cache.no-flush",
];

/// Checks the names of driver options (`--image-opts`): what a format does not know is refused, never passed over.
/// A name in `known` that ends with a dot stands for all that begin with it.
///
/// # Errors
/// `Block format 'x' does not support the option 'y'`.
pub fn check_driver_options(format: &str, options: &[(String, String)], known: &[&str]) -> Result<()> {
    let knows = |key: &str| {
        known.iter().any(|k| *k == key || (k.ends_with('.') && key.starts_with(k))) || OF_EVERY_IMAGE.contains(&key)
    };
    driver_options::check_values(options.iter().filter(|(key, _)| knows(key)))?;
    match options.iter().find(|(key, _)| !knows(key)) {
        Some((key, _)) => {
            Err(Error::usage(alloc::format!("Block format '{format}' does not support the option '{key}'")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_driver_options_are_refused() {
        let check = |key: &str| check_driver_options("raw", &[(key.to_string(), "on".to_string())], &["size", "file."]);
        assert!(["size", "file.x", "read-only", "cache.direct"].into_iter().all(|k| check(k).is_ok()));
        let error = check("foo").expect_err("it is unknown");
        assert_eq!(error.message, "Block format 'raw' does not support the option 'foo'");
        assert!(check("file").is_err() && check("sizes").is_err());
    }
}
