//! `bench`.

use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};

record! {
    /// Which requests are made.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Bench {
        /// Of which image.
        pub image: ImageParams = "image",
        /// How many.
        pub count: u64 = "count",
        /// So many at once.
        pub depth: u64 = "depth",
        /// Where the first one begins, in bytes.
        pub offset: u64 = "offset" or 0,
        /// How long each is, in bytes.
        pub size: u64 = "size",
        /// How far apart they begin, in bytes.
        pub step: u64 = "step",
        /// They write; else they read.
        pub write: bool = "write",
        /// The value of each byte that is written.
        pub pattern: u64 = "pattern" or 0,
        /// Requests between two flushes; 0: none.
        pub flush_interval: u64 = "flush-interval" or 0,
    }
}

impl Operation for Bench {
    const NAME: &'static str = "bench";
    type Results = ();

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into()
    }
}
