//! `compare`.

use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};

record! {
    /// What is compared.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Compare {
        /// The two images.
        pub images: Vec<ImageParams> = "images",
        /// Sizes and allocation have to be the same too.
        pub strict: bool = "strict",
        /// Progress is told in the stock tool's steps.
        pub steps: bool = "steps",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct CompareResults {
        /// The outcome.
        pub found: Option<Found> = "found",
    }

    /// Where two images differ.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Found {
        /// In their sizes.
        pub sizes_differ: bool = "sizes-differ",
        /// Sizes and allocation had to be the same too.
        pub strict: bool = "strict",
        /// The smaller size, in bytes.
        pub smaller: u64 = "smaller",
        /// Where they are not allocated alike.
        pub status_at: Option<u64> = "status-at",
        /// Where they show different bytes.
        pub content_at: Option<u64> = "content-at",
    }
}

impl Operation for Compare {
    const NAME: &'static str = "compare";
    type Results = CompareResults;
    const UNOPENED: u8 = 2;

    fn images(&self) -> Vec<&ImageParams> {
        self.images.iter().collect()
    }
}
