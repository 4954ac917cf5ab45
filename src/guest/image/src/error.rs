//! What can go wrong in the guest half, in the words of the tool that is replaced.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

/// The system's number for what is not supported, where the stock tool's words for it depend on the number.
pub const ENOTSUP: u32 = 95;

/// What kind of failure it is: it decides the exit status, never the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host could not do what was asked; holds its errno.
    Io(u32),
    /// Not an image of this format, or nonsense in it.
    Malformed,
    /// A valid image that needs something instar or the format lacks.
    Unsupported,
    /// The image contradicts itself.
    Corrupt,
    /// Larger, deeper or longer than a limit allows.
    Limit,
    /// The policy said no.
    Refused,
    /// A file of the chain is in it already.
    Loop,
    /// The caller asked for something that makes no sense.
    Usage,
}

/// A failure: its kind and its text. The text is what follows `Could not open 'x': ` (or the like) in
/// qemu-img's message, in qemu-img's words where it has any; it has no prefix, no newline at its end, and may
/// hold bytes from the image only where qemu-img's does (the host escapes control characters).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind.
    pub kind: Kind,
    /// The text.
    pub message: String,
    /// A further line that says what to do, shown only under the name `instar`.
    pub hint: Option<Box<str>>,
    /// A line of its own that the stock tool says before: what it found while it looked.
    pub earlier: Option<Box<str>>,
    /// What it is about, where that is known.
    pub scope: Option<Scope>,
    /// What was being done, where that is told by a byte of the disk.
    pub stage: Option<Stage>,
    /// The byte of the text at which the cause begins: before it stands what was being done.
    pub cause_at: usize,
}

/// What was being done at a byte of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its place was looked for.
    Status(u64),
    /// It was read.
    Read(u64),
    /// It was written.
    Write(u64),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(at) => write!(f, "error while reading block status at offset {at}"),
            Self::Read(at) => write!(f, "error while reading at byte {at}"),
            Self::Write(at) => write!(f, "error while writing at byte {at}"),
        }
    }
}

/// What a failure is about, where more went on than one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A table does not tell where so many bytes of the disk are, from the one asked for on.
    Lost(u64),
    /// The source of a copy: which step of those submitted, and how many of its bytes were copied before.
    Source(usize, u64),
    /// The target of a copy, likewise.
    Target(usize, u64),
}

impl Error {
    /// An error with that text.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, earlier: None, scope: None, stage: None, cause_at: 0 }
    }

    /// See [`Kind::Malformed`].
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, message)
    }

    /// See [`Kind::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// See [`Kind::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// See [`Kind::Limit`].
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(Kind::Limit, message)
    }

    /// See [`Kind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The same error with a line that says what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Box<str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with a line before it.
    #[must_use]
    pub fn after(mut self, earlier: impl Into<Box<str>>) -> Self {
        self.earlier = Some(earlier.into());
        self
    }

    /// The same error, about the place of `len` bytes of the disk.
    #[must_use]
    pub fn losing(mut self, len: u64) -> Self {
        self.scope = Some(Scope::Lost(len));
        self
    }

    /// The same error, about no more than `max` bytes of the disk.
    #[must_use]
    pub fn losing_at_most(self, max: u64) -> Self {
        match self.scope {
            Some(Scope::Lost(len)) if len > max => self.losing(max),
            _ => self,
        }
    }

    /// The same error, where `count` more steps were submitted before.
    #[must_use]
    pub fn of_steps_behind(mut self, count: usize) -> Self {
        self.scope = self.scope.map(|scope| match scope {
            Scope::Source(step, done) => Scope::Source(count.saturating_add(step), done),
            Scope::Target(step, done) => Scope::Target(count.saturating_add(step), done),
            Scope::Lost(len) => Scope::Lost(len),
        });
        self
    }

    /// The same error with `prefix` and `: ` before its text.
    #[must_use]
    pub fn context(mut self, prefix: impl fmt::Display) -> Self {
        let message = alloc::format!("{prefix}: {}", self.message);
        self.cause_at += message.len() - self.message.len();
        self.message = message;
        self
    }

    /// The same error, which came while that was being done.
    #[must_use]
    pub fn during(self, stage: Stage) -> Self {
        Self { stage: Some(stage), ..self.context(stage) }
    }

    /// The same error without what was being done, and without where.
    #[must_use]
    pub fn bare(self) -> Self {
        Self { message: self.cause().into(), scope: None, stage: None, cause_at: 0, ..self }
    }

    /// What went wrong, without what was being done.
    #[must_use]
    pub fn cause(&self) -> &str {
        self.message.get(self.cause_at..).unwrap_or_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for Error {}

/// The guest half's result.
pub type Result<T> = core::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_stays_what_it_is() {
        let error = Error::new(Kind::Io(5), "Input/output error").during(Stage::Read(7)).context("Could not copy");
        assert_eq!(error.message, "Could not copy: error while reading at byte 7: Input/output error");
        assert_eq!((error.cause(), error.stage), ("Input/output error", Some(Stage::Read(7))));
        assert_eq!(Error::usage("a: b").cause(), "a: b");
    }
}
