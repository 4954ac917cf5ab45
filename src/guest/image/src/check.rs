//! What checking an image's metadata finds.

use alloc::string::String;

pub use instar_abi::ops::check::{CheckReport, Repairs};

use crate::{Machine, Result};

/// Takes the lines that a check prints while it works, one at a time, in order: a damaged image has millions.
pub trait Findings {
    /// One line as the stock tool's format driver prints it (`ERROR ..`, `Leaked cluster ..`), without its end.
    fn line(&mut self, text: &str) -> Result<()>;

    /// The same of what the stock tool prints behind its own name (`qemu-img: ERROR ..`).
    fn error(&mut self, text: &str) -> Result<()>;
}

/// Keeps none: for who only wants to know how many there are.
pub struct Quiet;

impl Findings for Quiet {
    fn line(&mut self, _text: &str) -> Result<()> {
        Ok(())
    }

    fn error(&mut self, _text: &str) -> Result<()> {
        Ok(())
    }
}

/// Keeps the first line: for who gives up because of it.
#[derive(Default)]
pub struct First(pub String);

impl Findings for First {
    fn line(&mut self, text: &str) -> Result<()> {
        if self.0.is_empty() {
            self.0.push_str(text);
        }
        Ok(())
    }

    fn error(&mut self, text: &str) -> Result<()> {
        self.line(text)
    }
}

/// What came of a repair.
#[derive(Clone, Copy, Debug)]
pub struct Repaired {
    /// What stays, and how much was repaired.
    pub report: CheckReport,
    /// What a check of it would find now, where that was looked at.
    pub again: Option<CheckReport>,
}

impl From<CheckReport> for Repaired {
    fn from(report: CheckReport) -> Self {
        Self { report, again: None }
    }
}

/// What a check is given.
pub struct CheckContext<'c> {
    /// All devices; progress; more workers.
    pub machine: &'c dyn Machine,
    /// Where its lines go.
    pub findings: &'c mut dyn Findings,
}
