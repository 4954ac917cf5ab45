//! What somebody who slipped may have meant: under the own name, a line below the stock tool's text.
//!
//! A hint is chosen by what is said, and made of the user's own words and of names that this program knows. Nothing is looked
//! at in the file system but what the user named; what comes from an image is compared, and never repeated.

mod files;
mod space;
mod words;

use std::ffi::OsString;

use instar_render::QemuVersion;

use crate::commands::Command;
use crate::program::Program;
use crate::streams;

pub use space::{Full, full};

/// A message that is about to be helped with.
struct Slip<'s> {
    program: &'s Program,
    /// All of it, as it is shown.
    message: &'s str,
    /// What the guest knows besides: `the options here: a, b`.
    theirs: Option<&'s str>,
}

impl Slip<'_> {
    fn command(&self) -> Option<&'static Command> {
        crate::commands::COMMANDS.iter().copied().find(|command| command.name == self.program.command)
    }

    /// What the user named: operands, and files that options take.
    fn named(&self) -> &[OsString] {
        &self.program.named
    }
}

/// What is said, each `*` any text; and what helps, which is told what stands there.
struct Row {
    says: &'static str,
    helps: fn(&Slip<'_>, &[&str]) -> Option<String>,
}

const fn row(says: &'static str, helps: fn(&Slip<'_>, &[&str]) -> Option<String>) -> Row {
    Row { says, helps }
}

/// The first that has something to say says it.
const TABLE: &[Row] = &[
    row("Command not found: *", words::command),
    row("*unrecognized option '*'", words::option),
    row("*Unknown file format '*'*", words::format),
    row("*Unknown driver '*'*", words::format),
    row("*Unknown protocol '*'", words::protocol),
    row("*backing-fmt' does not accept value '*'*", words::format),
    row("*Invalid parameter '*'", words::key),
    row("*Invalid * specified*", words::size),
    row("*Parameter '*' expects a * number*", words::value),
    row("*needs a size parameter*", words::no_size),
    row("Expecting one image file name", words::several),
    row("unrecognized operand *", words::dd),
    row("*No space left on device*", space::hint),
    row("*", files::same_twice),
    row("*No such file or directory*", files::dash),
    row("*No such file or directory*", files::missing_folder),
    row("*Not a directory*", files::no_folder),
    row("*Is another process using the image*", files::in_use),
    row("*to be a regular file*", files::no_file),
    row("*Is a directory*", files::no_file),
    row("*A regular file was expected*", files::no_file),
    row("*Permission denied*", files::permission),
];

/// The line for a message, if there is one.
fn line(slip: &Slip<'_>) -> Option<String> {
    TABLE.iter().find_map(|row| (row.helps)(slip, &captured(row.says, slip.message)?))
}

/// What stands for each `*`, the shortest that does; the last one takes what is left before the end.
fn captured<'t>(pattern: &str, text: &'t str) -> Option<Vec<&'t str>> {
    let mut parts = pattern.split('*');
    let mut rest = text.strip_prefix(parts.next()?)?;
    let mut found = Vec::new();
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let at =
            if last { rest.len().checked_sub(part.len()).filter(|_| rest.ends_with(part))? } else { rest.find(part)? };
        found.push(&rest[..at]);
        rest = &rest[at + part.len()..];
    }
    (rest.is_empty()).then_some(found)
}

impl Program {
    /// Says what may have been meant, below a message. `theirs`: what the guest knows besides. Whether there was something to
    /// say.
    pub fn advise(&self, message: &str, theirs: Option<&str>) -> bool {
        if self.is_stock() || self.hinted.get() {
            return false;
        }
        let hint = line(&Slip { program: self, message, theirs });
        if let Some(text) = &hint {
            self.say_hint(text);
        }
        hint.is_some()
    }

    /// A line that says what to do about the one before it.
    pub fn say_hint(&self, text: &str) {
        self.hinted.set(true);
        streams::tell(&format!("{}: hint: {text}\n", self.name));
    }

    /// A release that nobody has seen is taken for the last one before it, which is said.
    pub fn advise_of_release(&self, given: QemuVersion) {
        let same = given.imitated_as();
        if !self.is_stock() && (same.major, same.minor) != (given.major, given.minor) {
            let QemuVersion { major, minor, .. } = given;
            streams::tell(&format!(
                "{}: hint: qemu-img {major}.{minor} is not known; as {}.{}\n",
                self.name, same.major, same.minor
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::captured;

    #[test]
    fn stars_stand_for_any_text() {
        assert_eq!(captured("Command not found: *", "Command not found: x y"), Some(vec!["x y"]));
        assert_eq!(captured("*Unknown '*'", "a: Unknown 'b'"), Some(vec!["a: ", "b"]));
        assert_eq!(captured("*Unknown '*'", "Unknown 'b' or c"), None);
        assert_eq!(captured("*", "a\nb"), Some(vec!["a\nb"]));
        assert_eq!(captured("one", "one"), Some(vec![]));
        assert_eq!(captured("one", "one more"), None);
        assert_eq!(captured("a*b*b", "abb"), Some(vec!["", ""]));
        assert_eq!(captured("ab*ba", "aba"), None);
    }
}
