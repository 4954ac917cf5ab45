//! Changing the size of an image in place: what an image that can do so implements.

use crate::{Error, Result};

/// What `resize` asks for. Offsets and sizes are in bytes.
#[derive(Clone, Copy, Debug)]
pub struct NewSize {
    /// The size that the disk is to have.
    pub size: u64,
    /// A file that is longer than that would do as well.
    pub at_least: bool,
    /// How what is added is preallocated. (A smaller size without `--shrink` was refused already, and one with another
    /// mode than `Off`.)
    pub preallocation: Preallocation,
    /// The image's backing file is so long: where that is more than the image was, what is added must not show it. The unit
    /// that the disk's end is in is the image's own then.
    pub backing_len: Option<u64>,
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

/// An image that can have another size.
pub trait Resizing {
    /// Plans and carries out the steps. Every change is a [`crate::Step`]; what must be stable before something else is divided
    /// from it by [`crate::Step::Barrier`], so that a run that is cut anywhere leaves the old or the new image.
    fn resize(&self, to: &NewSize) -> Result<()>;

    /// Why it cannot have that size, where this is known before: the user may say how large it is, or it cannot be smaller.
    fn keeps_size(&self, _to: u64) -> Option<Error> {
        None
    }
}
