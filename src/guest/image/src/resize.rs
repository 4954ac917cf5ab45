//! Changing the size of an image in place: what a format that can do so implements.

use crate::options::Options;
use crate::{DeviceId, Machine, Result, Version};

/// What `resize` is given. Offsets and sizes are in bytes.
pub struct ResizeContext<'a, 'n> {
    /// The world. Every change is a [`crate::Step`]; what must be stable before something else is divided from it
    /// by [`crate::Step::Barrier`], so that a run that is cut anywhere leaves the old or the new image.
    pub machine: &'a dyn Machine,
    /// The image's device, open for writing.
    pub device: DeviceId,
    /// Its name.
    pub name: &'n [u8],
    /// The size that the disk is to have.
    pub size: u64,
    /// `--shrink` was given. (That the new size is smaller without it, the operation has refused already.)
    pub shrink: bool,
    /// `--preallocation=` and driver options, by key.
    pub options: &'n Options,
    /// The image has a backing file: what is added must not show it, where that is longer than the image was.
    pub backing_len: Option<u64>,
    /// Whose behaviour.
    pub version: Version,
}

/// Resizes images of one format.
pub trait Resizer: Sync {
    /// The stock tool cannot: only done under our own name.
    fn extension(&self) -> bool {
        false
    }

    /// Plans and carries out the steps.
    fn resize(&self, cx: ResizeContext<'_, '_>) -> Result<()>;
}
