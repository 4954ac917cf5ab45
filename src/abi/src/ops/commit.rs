//! `commit`.

use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};

record! {
    /// What goes where.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Commit {
        /// The image on top.
        pub image: ImageParams = "image",
        /// The image of the chain that it goes into, if not the next.
        pub base: Option<Vec<u8>> = "base",
        /// The image on top keeps what it has.
        pub drop: bool = "drop",
    }
}

impl Operation for Commit {
    const NAME: &'static str = "commit";
    type Results = ();

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into()
    }
}
