//! What formats can do here that the stock tool cannot. Under its name that is refused as it refuses it, unless the user
//! has asked for extensions: whether they are allowed is one question, [`allowed`].

use crate::format::Format;
use crate::machine::Source;

/// Something that can be done with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// `check`.
    Check,
    /// `check -r`.
    Repair,
    /// `resize`, and whatever else gives an existing image another size.
    Resize,
    /// `rebase`.
    Rebase,
    /// A new image on a backing file.
    Child,
}

/// Whether this may be done with images of the format, as far as the stock tool's abilities are concerned.
#[must_use]
pub fn allowed(format: &dyn Format, ability: Ability, source: &dyn Source) -> bool {
    !(source.is_stock() && format.extensions().contains(&ability))
}
