//! `create`.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::record;
use super::{Failure, ImageParams, Operation};

record! {
    /// What is made. What the host could not open or make is told in its turn, by the guest.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Create {
        /// As the user wrote it.
        pub filename: Vec<u8> = "filename",
        /// The format.
        pub format: String = "format",
        /// `-o`, each as given.
        pub options: Vec<Vec<u8>> = "options",
        /// The disk's size in bytes, where it is an operand.
        pub size: Option<u64> = "size",
        /// The new file's device.
        pub device: Option<u32> = "device",
        /// That of its external data file.
        pub data_device: Option<u32> = "data-device",
        /// Why there is no new file.
        pub target_error: Option<String> = "target-error",
        /// Why the name can be none of a file.
        pub name_error: Option<String> = "name-error",
        /// `-b`
        pub backing: Option<String> = "backing",
        /// `-F`
        pub backing_format: Option<String> = "backing-format",
        /// `-u`
        pub unopened: bool = "unopened",
        /// The backing file, open.
        pub backing_image: Option<ImageParams> = "backing-image",
        /// Why it is not.
        pub backing_error: Option<String> = "backing-error",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct CreateResults {
        /// The options as the line "Formatting .." shows them.
        pub formatting: Option<Vec<Formatting>> = "formatting",
        /// What failed after that line.
        pub late_error: Option<Failure> = "late-error",
    }

    /// An option of the new image.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Formatting {
        /// Its name.
        pub name: String = "name",
        /// Its value.
        pub value: String = "value",
    }
}

impl Operation for Create {
    const NAME: &'static str = "create";
    type Results = CreateResults;

    fn images(&self) -> Vec<&ImageParams> {
        self.backing_image.iter().collect()
    }
}
