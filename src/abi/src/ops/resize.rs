//! `resize`.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::{record, words};
use super::{ImageParams, Operation};

record! {
    /// Which size.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Resize {
        /// Of which image.
        pub image: ImageParams = "image",
        /// In bytes.
        pub size: u64 = "size",
        /// The size is a change of the old one.
        pub relative: Option<Relative> = "relative",
        /// It may be smaller than the old one.
        pub shrink: bool = "shrink",
        /// How what is added is allocated.
        pub preallocation: Option<String> = "preallocation",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct ResizeResults {
        /// It would be smaller, and may not be.
        pub needs_shrink: bool = "needs-shrink" or false,
    }
}

words! {
    /// Ways to change a size.
    pub enum Relative {
        /// So much more.
        More = "+",
        /// So much less.
        Less = "-",
    }
}

impl Operation for Resize {
    const NAME: &'static str = "resize";
    type Results = ResizeResults;

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into()
    }
}
