//! `convert` and `dd`.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};

record! {
    /// What becomes of what.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Convert {
        /// `-B`: the backing file's name as the target will say it.
        pub backing: Option<Vec<u8>> = "backing",
        /// `-F`
        pub backing_format: Option<String> = "backing-format",
        /// That file, open.
        pub backing_image: Option<ImageParams> = "backing-image",
        /// The images, to be put behind one another.
        pub sources: Vec<ImageParams> = "sources",
        /// The target.
        pub target: TargetParams = "target",
        /// `-o`, each as given.
        pub options: Vec<Vec<u8>> = "options",
        /// `-l`
        pub snapshot: Option<String> = "snapshot",
        /// `dd`: which part of the source.
        pub section: Option<SectionParams> = "section",
        /// `-c`
        pub compress: bool = "compress",
        /// `-S`, in bytes
        pub sparse: u64 = "sparse" or 4096,
        /// `--salvage`
        pub salvage: bool = "salvage",
        /// `--bitmaps`
        pub bitmaps: bool = "bitmaps",
        /// `--skip-broken-bitmaps`
        pub skip_broken_bitmaps: bool = "skip-broken-bitmaps",
        /// `-q`
        pub quiet: bool = "quiet",
        /// Progress is told in the stock tool's steps.
        pub steps: bool = "steps",
    }

    /// The target.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct TargetParams + image: ImageParams => {
        /// The device of its external data file.
        pub data_device: Option<u32> = "data-device",
        /// `-n`: it is there already.
        pub existing: bool = "existing",
        /// `--target-is-zero`
        pub zeroed: bool = "zeroed",
    }

    /// A part of a disk, in blocks from its beginning on.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct SectionParams {
        /// Bytes of a block.
        pub block: u64 = "block",
        /// Where the part ends; what is skipped is counted.
        pub count: Option<u64> = "count",
        /// Where it begins.
        pub skip: u64 = "skip",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct ConvertResults {
        /// The part begins behind the disk's end.
        pub skipped_too_much: bool = "skipped-too-much" or false,
    }
}

impl Operation for Convert {
    const NAME: &'static str = "convert";
    type Results = ConvertResults;

    fn images(&self) -> Vec<&ImageParams> {
        self.backing_image.iter().chain(&self.sources).chain([&self.target.image]).collect()
    }
}
