//! `measure`.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};

record! {
    /// What is measured.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Measure {
        /// The format of the image that would be made.
        pub format: String = "format",
        /// `-o`, each as given.
        pub options: Vec<Vec<u8>> = "options",
        /// `-l`
        pub snapshot: Option<String> = "snapshot",
        /// The disk's size in bytes.
        pub size: Option<u64> = "size",
        /// What the image would hold, if not nothing.
        pub image: Option<ImageParams> = "image",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct MeasureResults {
        /// The sizes.
        pub sizes: Option<Sizes> = "sizes",
    }

    /// QEMU's `BlockMeasureInfo`: bytes of an image.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Sizes {
        /// Of its bitmaps.
        pub bitmaps: Option<u64> = "bitmaps",
        /// Of all that it would have at first.
        pub required: u64 = "required",
        /// Of all that it could have.
        pub fully_allocated: u64 = "fully-allocated",
    }
}

impl Operation for Measure {
    const NAME: &'static str = "measure";
    type Results = MeasureResults;

    fn images(&self) -> Vec<&ImageParams> {
        self.image.iter().collect()
    }
}
