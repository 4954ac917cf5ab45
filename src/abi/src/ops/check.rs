//! `check`.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::{record, words};
use super::{ImageParams, Operation};

record! {
    /// What is checked.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Check {
        /// The image.
        pub image: ImageParams = "image",
        /// What of it is to be repaired.
        pub repair: Option<Repairs> = "repair",
    }

    /// What was repaired.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Repaired {
        /// Errors.
        pub corruptions: u64 = "corruptions",
        /// Leaked clusters.
        pub leaks: u64 = "leaks",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct CheckResults {
        /// What was repaired, if anything was; told before the image is checked again.
        pub repaired: Option<Repaired> = "repaired",
        /// The format has nothing to check.
        pub unsupported: bool = "unsupported" or false,
        /// What was counted.
        pub check: Option<Checked> = "check",
    }

    /// QEMU's own `ImageCheck` (QAPI, block-core.json), less what has no name in it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Checked + report: CheckReport => {
        /// As the user wrote it.
        pub filename: Vec<u8> = "filename",
        /// The image's format.
        pub format: String = "format",
    }

    /// What was counted; what is zero is not told, but for the errors of the check itself. Clusters are the format's own units;
    /// a format that does not count leaves the zeroes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CheckReport {
        /// What could not be checked.
        pub check_errors: u64 = "check-errors",
        /// Byte after the last one in use, where the format knows it.
        pub image_end_offset: Option<u64> = "image-end-offset",
        /// Errors that make data wrong or unreachable.
        pub corruptions: u64 = "corruptions" or 0,
        /// Clusters that are allocated and not used: wasted, harmless.
        pub leaks: u64 = "leaks" or 0,
        /// Errors that were repaired.
        pub corruptions_fixed: u64 = "corruptions-fixed" or 0,
        /// Leaked clusters that were given up.
        pub leaks_fixed: u64 = "leaks-fixed" or 0,
        /// Clusters that the virtual disk has.
        pub total_clusters: u64 = "total-clusters" or 0,
        /// Of them, those with data.
        pub allocated_clusters: u64 = "allocated-clusters" or 0,
        /// Of them, those that do not follow the one before.
        pub fragmented_clusters: u64 = "fragmented-clusters" or 0,
        /// Of them, those stored compressed.
        pub compressed_clusters: u64 = "compressed-clusters" or 0,
    }
}

words! {
    /// What is to be repaired.
    pub enum Repairs {
        /// Nothing that could harm: what is counted and not used, and what is wrong besides if nothing else is.
        Leaks = "leaks",
        /// All that can be.
        All = "all",
    }
}

impl Operation for Check {
    const NAME: &'static str = "check";
    type Results = CheckResults;

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into()
    }
}
