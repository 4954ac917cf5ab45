//! `amend`.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::record;
use super::option_help::OptionRow;
use super::{ImageParams, Operation};

record! {
    /// What an image is to become.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Amend {
        /// Which image.
        pub image: ImageParams = "image",
        /// `-o`, each as given.
        pub options: Vec<Vec<u8>> = "options",
        /// What may lose the disk may be done.
        pub force: bool = "force",
        /// The options are listed, and nothing is done.
        pub help: bool = "help",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct AmendResults {
        /// The options make sense, and the image is going to be changed.
        pub began: bool = "began" or false,
        /// The image's format, where options are listed.
        pub format: Option<String> = "format",
        /// The options in their order.
        pub rows: Vec<OptionRow> = "rows" or Vec::new(),
    }
}

impl Operation for Amend {
    const NAME: &'static str = "amend";
    type Results = AmendResults;

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into()
    }
}
