//! Images as parameters name them.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::record;

record! {
    /// A driver option that the user gave.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Pair {
        /// Dotted.
        pub key: String = "key",
        /// Its value.
        pub value: String = "value",
    }

    /// A driver below another: what is above it lies in the image that this one shows.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct BelowParams {
        /// The device that it becomes.
        pub id: u32 = "id",
        /// The device that it is on.
        pub device: u32 = "device",
        /// The name that is shown for it.
        pub shown: Vec<u8> = "shown",
        /// The file's name.
        pub filename: Vec<u8> = "filename",
        /// Its format.
        pub format: String = "format",
        /// Its options.
        pub options: Vec<Pair> = "options",
        /// Backing files of its own that the user named.
        pub given: Vec<GivenParams> = "given" or Vec::new(),
    }

    /// A backing file that the user named, whatever the image above it says.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct GivenParams {
        /// Its place in the chain: 1 is the backing file of the first.
        pub place: u64 = "place",
        /// The device that it is.
        pub device: u32 = "device",
        /// Its name.
        pub filename: Vec<u8> = "filename",
        /// The name that is shown for it, where that is another.
        pub shown: Option<Vec<u8>> = "shown",
        /// Drivers between its own and the file, the lowest first.
        pub below: Vec<BelowParams> = "below" or Vec::new(),
    }

    /// An image that the user named.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct ImageParams {
        /// The device that it is on.
        pub device: u32 = "device",
        /// The file's name: to show, and to resolve relative names by.
        pub filename: Vec<u8> = "filename",
        /// As the user wrote it, driver options and all: what messages show. The file's name, if not said.
        pub written: Option<Vec<u8>> = "written",
        /// Its format, if that is said.
        pub format: Option<String> = "format",
        /// Driver options.
        pub options: Vec<Pair> = "options",
        /// Drivers between its own and the file, the lowest first.
        pub below: Vec<BelowParams> = "below",
        /// Backing files that the user named.
        pub given: Vec<GivenParams> = "given",
    }
}
