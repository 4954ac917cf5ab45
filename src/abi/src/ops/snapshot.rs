//! `snapshot`.

use alloc::vec::Vec;

use super::codec::{record, words};
use super::info::SnapshotInfo;
use super::{ImageParams, Operation};

record! {
    /// What is done with an image's internal snapshots.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Snapshot {
        /// Of which image.
        pub image: ImageParams = "image",
        /// What; nothing is done but to open the image as if to change it, where that is not said.
        pub action: Option<SnapshotAction> = "action",
        /// The snapshot's name, or what it is asked for by.
        pub name: Vec<u8> = "name" or Vec::new(),
        /// The time: seconds since 1970.
        pub date_sec: u64 = "date-sec",
        /// Nanoseconds besides.
        pub date_nsec: u64 = "date-nsec",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct SnapshotResults {
        /// The snapshots, where they are listed.
        pub snapshots: Vec<SnapshotInfo> = "snapshots" or Vec::new(),
    }
}

words! {
    /// What can be done.
    pub enum SnapshotAction {
        /// They are listed.
        List = "list",
        /// One is taken.
        Create = "create",
        /// The disk becomes what it was.
        Apply = "apply",
        /// One is given up.
        Delete = "delete",
    }
}

impl Operation for Snapshot {
    const NAME: &'static str = "snapshot";
    type Results = SnapshotResults;

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into()
    }
}
