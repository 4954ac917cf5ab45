//! Which files an image may name.

use std::path::PathBuf;

/// The open policy for names that come from images. Names given on the command line never pass here.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `--no-backing`: none at all.
    pub deny_all: bool,
    /// Directories below which files may be opened, besides the naming image's own.
    pub allowed: Vec<PathBuf>,
    /// `-U`: take no locks.
    pub force_share: bool,
}
