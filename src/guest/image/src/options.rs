//! `-o name=value,...`: the option table of a format, and what the user said.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::{Error, Result};

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
    /// Reads the texts of all `-o` in turn and checks the names.
    ///
    /// # Errors
    /// `Invalid parameter 'x'` for a name that `specs` does not have; a size that is none.
    pub fn parse(texts: &[&str], specs: &[OptionSpec]) -> Result<Self> {
        let mut entries = Vec::new();
        for (name, value) in texts.iter().flat_map(|t| split(t)) {
            let Some(spec) = specs.iter().find(|s| s.name == name) else {
                return Err(Error::usage(alloc::format!("Invalid parameter '{name}'")));
            };
            match spec.kind {
                OptionKind::Size => drop(size(&name, &value)?),
                OptionKind::Number if value.parse::<u64>().is_err() => {
                    return Err(Error::usage(alloc::format!("Parameter '{name}' expects a number")));
                }
                OptionKind::Bool => drop(boolean(&name, &value)?),
                OptionKind::Number | OptionKind::Text => {}
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
    match options.iter().find(|(key, _)| !knows(key)) {
        Some((key, _)) => {
            Err(Error::usage(alloc::format!("Block format '{format}' does not support the option '{key}'")))
        }
        None => Ok(()),
    }
}

/// Reads a truth value.
///
/// # Errors
/// In qemu-img's words, naming the parameter.
pub fn boolean(name: &str, text: &str) -> Result<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Error::usage(alloc::format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}

/// Reads a size: bytes, or a number with one of the suffixes b k M G T P E.
///
/// # Errors
/// In qemu-img's words, naming the parameter.
pub fn size(name: &str, text: &str) -> Result<u64> {
    let wrong = || {
        Error::usage(alloc::format!(
            "Parameter '{name}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means \
             kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
        ))
    };
    let (number, shift) = match text.char_indices().next_back().ok_or_else(wrong)? {
        (at, 'b' | 'B') => (text.get(..at), 0),
        (at, 'k' | 'K') => (text.get(..at), 10),
        (at, 'm' | 'M') => (text.get(..at), 20),
        (at, 'g' | 'G') => (text.get(..at), 30),
        (at, 't' | 'T') => (text.get(..at), 40),
        (at, 'p' | 'P') => (text.get(..at), 50),
        (at, 'e' | 'E') => (text.get(..at), 60),
        _ => (Some(text), 0),
    };
    let digits = number.filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())).ok_or_else(wrong)?;
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_driver_options_are_refused() {
        let check = |key: &str| check_driver_options("raw", &[(key.to_string(), "1".to_string())], &["size", "file."]);
        assert!(["size", "file.x", "read-only", "cache.direct"].into_iter().all(|k| check(k).is_ok()));
        let error = check("foo").expect_err("it is unknown");
        assert_eq!(error.message, "Block format 'raw' does not support the option 'foo'");
        assert!(check("file").is_err() && check("sizes").is_err());
    }
}
