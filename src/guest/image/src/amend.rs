//! Changing what an image says of itself in place: `amend`.

use crate::options::Options;
use crate::{Result, Version};

/// What an image is to become.
pub struct Amendment<'o> {
    /// What the user said, of those options that its format lists ([`crate::Quirk::Amends`]).
    pub options: &'o Options,
    /// Whose behaviour.
    pub version: Version,
    /// The image's backing file is so long, in bytes; see [`crate::NewSize::backing_len`].
    pub backing_len: Option<u64>,
    /// What may lose the disk may be done.
    pub force: bool,
    /// Warns the user.
    pub warn: &'o dyn Fn(&str) -> Result<()>,
}
