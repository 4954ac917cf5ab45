//! Changing the size of an image in place: what a format that can do so implements.

use alloc::string::String;

use crate::{DeviceId, Machine, Result, Version};

/// What `resize` is given. Offsets and sizes are in bytes.
pub struct ResizeContext<'a, 'n> {
    /// The world. Every change is a [`crate::Step`]; what must be stable before something else is divided from it
    /// by [`crate::Step::Barrier`], so that a run that is cut anywhere leaves the old or the new image.
    pub machine: &'a dyn Machine,
    /// The image's device, open for writing.
    pub device: DeviceId,
    /// Driver options of `--image-opts`.
    pub driver_options: &'n [(String, String)],
    /// Its name.
    pub name: &'n [u8],
    /// The size that the disk is to have.
    pub size: u64,
    /// A file that is longer than that would do as well.
    pub at_least: bool,
    /// How what is added is preallocated. (A smaller size without `--shrink` was refused already, and one with another
    /// mode than `Off`.)
    pub preallocation: Preallocation,
    /// The image's backing file is so long: where that is more than the image was, what is added must not show it.
    pub backing_len: Option<u64>,
    /// Where the backing file would show: the last bytes that the disk shows now, at least from the beginning of the
    /// last 2 MiB of it on (a unit may be that large). Else empty.
    pub tail: &'n [u8],
    /// Whose behaviour.
    pub version: Version,
}

/// `--preallocation`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing is allocated.
    #[default]
    Off,
    /// Every unit has its place.
    Metadata,
    /// And the file system has reserved it.
    Falloc,
    /// And it is filled with zeroes.
    Full,
}

impl Preallocation {
    /// By the name that the option has.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "off" => Self::Off,
            "metadata" => Self::Metadata,
            "falloc" => Self::Falloc,
            "full" => Self::Full,
            _ => return None,
        })
    }

    /// The name that the option has.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Metadata => "metadata",
            Self::Falloc => "falloc",
            Self::Full => "full",
        }
    }
}

/// Resizes images of one format.
pub trait Resizer: Sync {
    /// Plans and carries out the steps.
    fn resize(&self, cx: ResizeContext<'_, '_>) -> Result<()>;
}
