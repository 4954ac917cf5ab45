//! `rebase`.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};

record! {
    /// What stands on what from now on.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Rebase {
        /// The image.
        pub image: ImageParams = "image",
        /// The new backing file, open; `None` where none is wanted, or with `-u`.
        pub new: Option<ImageParams> = "new",
        /// Why it is not: told after all that is wrong with the image and the options.
        pub new_error: Option<String> = "new-error",
        /// Its name as it is to be stored; empty: none.
        pub backing: Vec<u8> = "backing" or Vec::new(),
        /// `-F`
        pub backing_format: Option<String> = "backing-format",
        /// `-u`
        pub only_name: bool = "unsafe",
        /// `-c`
        pub compress: bool = "compress",
        /// `--dry-run`
        pub dry_run: bool = "dry-run",
        /// Progress is told in the stock tool's steps.
        pub steps: bool = "steps",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct RebaseResults {
        /// `--dry-run`: what would have been copied.
        pub dry_run: Option<DryRun> = "dry-run",
    }

    /// Bytes that would be written.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct DryRun {
        /// Copied.
        pub data_bytes: u64 = "data-bytes",
        /// Marked as zeroes.
        pub zero_bytes: u64 = "zero-bytes",
    }
}

impl Operation for Rebase {
    const NAME: &'static str = "rebase";
    type Results = RebaseResults;

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into_iter().chain(&self.new).collect()
    }
}
