//! Images of which nobody said that they are raw: they are taken for it, which is dangerous where they can be changed.

use instar_image::quirk::has;
use instar_image::{Format, Machine, Quirk, Result};

use crate::open::ImageSpec;
use crate::told::guessed_raw;

/// Whether the image was only found to be of no other format.
pub fn is_guessed(image: &ImageSpec, format: &dyn Format) -> bool {
    image.format.is_none() && has(format, Quirk::Fallback)
}

/// Warns of such an image.
pub fn tell_guessed(machine: &dyn Machine, image: &ImageSpec, format: &dyn Format) -> Result<()> {
    if is_guessed(image, format) { guessed_raw(machine, &image.name) } else { Ok(()) }
}
