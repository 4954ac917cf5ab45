//! `bitmap`.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::{record, words};
use super::{ImageParams, Operation};

record! {
    /// What is done with an image's persistent bitmaps.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Bitmap {
        /// Of which image.
        pub image: ImageParams = "image",
        /// What, in this order.
        pub actions: Vec<BitmapAction> = "actions",
        /// The bitmap's name.
        pub name: Vec<u8> = "name" or Vec::new(),
        /// Bytes that a bit of a new one stands for; `None`: as many as is usual for such an image.
        pub granularity: Option<u64> = "granularity",
        /// Where bitmaps are merged from; `None`: from the same image.
        pub source: Option<ImageParams> = "source",
        /// Why it is not open: told after all that is wrong with the image.
        pub source_error: Option<String> = "source-error",
    }

    /// One thing that is done.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct BitmapAction {
        /// What.
        pub action: BitmapVerb = "action",
        /// The bitmap that is merged.
        pub from: Vec<u8> = "from" or Vec::new(),
    }
}

words! {
    /// What can be done.
    pub enum BitmapVerb {
        /// There is a new one.
        Add = "add",
        /// It is given up.
        Remove = "remove",
        /// All are.
        RemoveAll = "remove-all",
        /// No bit is set in it any more.
        Clear = "clear",
        /// It follows what happens to the disk from now on.
        Enable = "enable",
        /// It does not.
        Disable = "disable",
        /// The bits of another one are set in it, too.
        Merge = "merge",
    }
}

impl Operation for Bitmap {
    const NAME: &'static str = "bitmap";
    type Results = ();

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into_iter().chain(&self.source).collect()
    }
}
