//! `policy`. What is asked for the host sees by itself.

use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};

record! {
    /// Whose names are asked for.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Policy {
        /// The image.
        pub image: ImageParams = "image",
    }
}

impl Operation for Policy {
    const NAME: &'static str = "policy";
    type Results = ();

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into()
    }
}
