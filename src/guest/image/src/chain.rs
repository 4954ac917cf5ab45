//! A chain of images: opening it, and reading through its layers.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::{DeviceId, Extent, Format, Image, Place, Result};

/// One image of a chain.
pub struct Layer<'a> {
    /// The image.
    pub image: Box<dyn Image + 'a>,
    /// Its format.
    pub format: &'static dyn Format,
    /// The device it is on.
    pub device: DeviceId,
    /// Its name: the user's own for the first, else the name in the image above, combined with that image's
    /// directory as QEMU does.
    pub name: Vec<u8>,
}

/// A chain, the top image first. Never empty.
pub struct Chain<'a> {
    /// The images.
    pub layers: Vec<Layer<'a>>,
}

impl Chain<'_> {
    /// Virtual size in bytes: the top image's.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.layers.first().map_or(0, |l| l.image.virtual_size())
    }

    /// The extent of the top image alone.
    pub fn top_extent(&self, at: u64, max: u64) -> Result<Extent> {
        match self.layers.first() {
            Some(layer) => layer.image.extent(at, max),
            None => Ok(Extent { at, len: max, place: Place::Unallocated }),
        }
    }

    /// The extent that begins at `at`, at most `max` bytes, and the depth of the layer that it lies in.
    /// Unallocated in every layer, or past the end of a shorter backing file, is [`Place::Unallocated`] at
    /// the depth of the last layer asked.
    pub fn extent(&self, at: u64, max: u64) -> Result<(usize, Extent)> {
        let mut max = max;
        let mut last = (0, Extent { at, len: max, place: Place::Unallocated });
        for (depth, layer) in self.layers.iter().enumerate() {
            let size = layer.image.virtual_size();
            if at >= size {
                break;
            }
            let extent = layer.image.extent(at, max.min(size - at))?;
            last = (depth, extent);
            if extent.place != Place::Unallocated {
                break;
            }
            // What is below this layer's end may still show further up to the layers above: keep to the shortest run.
            max = extent.len;
        }
        Ok(last)
    }
}
