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
            None => (w, "on".to_string()),
        })
        .collect()
}

impl Options {
    /// Reads the texts of all `-o` in turn and checks the names.
    ///
    /// # Errors
    /// `Invalid parameter 'x'` for a name that `specs` does not have.
    pub fn parse(texts: &[&str], specs: &[OptionSpec]) -> Result<Self> {
        let mut entries = Vec::new();
        for (name, value) in texts.iter().flat_map(|t| split(t)) {
            if !specs.iter().any(|s| s.name == name) {
                return Err(Error::usage(alloc::format!("Invalid parameter '{name}'")));
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
