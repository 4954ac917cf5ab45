//! What checking an image's metadata finds.

use alloc::string::String;

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

/// What a check is given.
pub struct CheckContext<'c> {
    /// All devices; progress; more workers.
    pub machine: &'c dyn Machine,
    /// Where its lines go.
    pub findings: &'c mut dyn Findings,
}

/// What was counted. Clusters are the format's own units; a format that does not count leaves the zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Errors that make data wrong or unreachable.
    pub corruptions: u64,
    /// Clusters that are allocated and not used: wasted, harmless.
    pub leaks: u64,
    /// What could not be checked.
    pub check_errors: u64,
    /// Byte after the last one in use, where the format knows it.
    pub image_end_offset: Option<u64>,
    /// Clusters that the virtual disk has.
    pub total_clusters: u64,
    /// Of them, those with data.
    pub allocated_clusters: u64,
    /// Of them, those that do not follow the one before.
    pub fragmented_clusters: u64,
    /// Of them, those stored compressed.
    pub compressed_clusters: u64,
}
