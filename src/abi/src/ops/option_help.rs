//! `-o help` of `create`, `convert` and `amend`.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};

record! {
    /// What is listed.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct OptionHelp {
        /// The format whose images are to be made, or changed.
        pub format: String = "format",
        /// They are to be changed.
        pub amend: bool = "amend",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct OptionHelpResults {
        /// The options in their order.
        pub help: Vec<OptionRow> = "help" or Vec::new(),
    }

    /// An option.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct OptionRow {
        /// Its name.
        pub name: String = "name",
        /// What its values are.
        pub kind: String = "kind",
        /// What it does.
        pub help: String = "help",
        /// It is one of the file, not of the format.
        pub of_file: bool = "of-file",
    }
}

impl Operation for OptionHelp {
    const NAME: &'static str = "option-help";
    type Results = OptionHelpResults;

    fn images(&self) -> Vec<&ImageParams> {
        Vec::new()
    }
}
