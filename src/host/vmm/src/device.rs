//! Devices: open files that the guest knows by index.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::policy::Parts;
use crate::target::{Maker, Old};

/// What the guest may do with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Read only.
    Read,
    /// Read and write, and grow up to so many bytes.
    Write {
        /// The device may not become longer than this.
        growth_limit_bytes: u64,
    },
}

/// An open file with what the server must know of it.
#[derive(Debug)]
pub struct Device {
    /// The file.
    pub file: File,
    /// The name that it was opened by, made absolute: names in its image are relative to its directory.
    pub path: PathBuf,
    /// What the guest may do.
    pub mode: Mode,
    /// The host made it empty for this run.
    pub fresh: bool,
    /// Opened with `O_DIRECT`: the server aligns what it moves.
    pub direct: bool,
    /// Another program has it open to write, which was not kept from it.
    pub contended: bool,
    /// `Flush` does nothing (`-t unsafe`).
    pub ignore_flush: bool,
    /// Makes files beside it: it is a new file, which will be published.
    pub maker: Option<Maker>,
    /// Files that its image may name to have them written.
    pub parts: Parts,
    /// What it held before: a target that is written where it is.
    pub old: Option<Arc<Old>>,
}

impl Device {
    /// One that nothing more is said of: it was there, has no parts, and is buffered unless it says otherwise.
    #[must_use]
    pub const fn new(file: File, path: PathBuf, mode: Mode) -> Self {
        Self {
            file,
            path,
            mode,
            fresh: false,
            direct: false,
            contended: false,
            ignore_flush: false,
            maker: None,
            parts: Parts::NONE,
            old: None,
        }
    }

    /// It is a block device.
    #[must_use]
    pub fn is_block(&self) -> bool {
        use std::os::unix::fs::FileTypeExt;
        self.file.metadata().is_ok_and(|meta| meta.file_type().is_block_device())
    }
}
