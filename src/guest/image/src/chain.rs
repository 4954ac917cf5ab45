//! A chain of images: opening it, and reading through its layers.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::{DeviceId, Error, Extent, Format, Image, Kind, Place, Result};

/// The number of the system's "Invalid argument".
const EINVAL: u32 = 22;

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
    /// The name that is shown for it, where the user named it and that is another.
    pub shown: Option<Vec<u8>>,
    /// Another program had its file open to write when it was opened.
    pub contended: bool,
}

impl Layer<'_> {
    /// The devices that its bytes may lie on: its own first.
    pub fn devices(&self) -> impl Iterator<Item = DeviceId> + use<> {
        let others = self.image.data_files().into_iter().map(|(device, _)| device);
        core::iter::once(self.device).chain(others)
    }

    /// See [`Image::extent`]; never empty. A failure too is about no more than was asked for.
    pub fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let extent = self.image.extent(at, max).map_err(|e| e.losing_at_most(max))?;
        if extent.len > 0 { Ok(extent) } else { Err(Error::corrupt("an extent without a byte")) }
    }
}

/// An image that is a device for what lies above it.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// The image, without its backing files.
    pub layer: &'a Layer<'a>,
    /// Those, the next first.
    pub behind: &'a [Layer<'a>],
    /// The name that is shown for it.
    pub name: &'a [u8],
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

    /// What the first `count` layers alone hold at `at`, at most `max` bytes, and in which layer. Behind the end of one
    /// that is shorter nothing below shows: zeroes.
    pub fn extent_above(&self, count: usize, at: u64, max: u64) -> Result<(usize, Extent)> {
        let mut last = (0, Extent { at, len: max, place: Place::Unallocated });
        for (depth, layer) in self.layers.iter().take(count).enumerate() {
            let len = last.1.len;
            let size = layer.image.virtual_size();
            if at >= size {
                return Ok((depth, Extent { at, len, place: Place::Zero { at: None } }));
            }
            last = (depth, layer.extent(at, len.min(size - at))?);
            if last.1.place != Place::Unallocated {
                break;
            }
        }
        Ok(last)
    }

    /// What the first layer alone holds at `at`, at most `max` bytes. Of one that stands on nothing, all is its own.
    pub fn extent_own(&self, at: u64, max: u64) -> Result<Extent> {
        let (_, extent) = self.extent_above(1, at, max)?;
        let is_empty = extent.place == Place::Unallocated && self.layers.len() == 1;
        Ok(if is_empty { Extent { place: Place::Zero { at: None }, ..extent } } else { extent })
    }

    /// The extent that begins at `at`, at most `max` bytes, and the depth of the layer that it lies in.
    /// Unallocated in every layer, or past the end of a shorter backing file, is [`Place::Unallocated`] at
    /// the depth of the last layer asked.
    pub fn extent(&self, at: u64, max: u64) -> Result<(usize, Extent)> {
        self.extent_below(0, at, max)
    }

    /// The same without the first `count` layers.
    pub fn extent_below(&self, count: usize, at: u64, max: u64) -> Result<(usize, Extent)> {
        let mut max = max;
        let mut last = (count, Extent { at, len: max, place: Place::Unallocated });
        for (depth, layer) in self.layers.iter().enumerate().skip(count) {
            let size = layer.image.virtual_size();
            if at >= size {
                break;
            }
            let extent = layer.extent(at, max.min(size - at))?;
            last = (depth, extent);
            if extent.place != Place::Unallocated {
                break;
            }
            // What is below this layer's end may still show further up to the layers above: keep to the shortest run.
            max = extent.len;
        }
        Ok(last)
    }

    /// The extent of layer `depth`, if its bytes can be had: not where an image above stands on another one than it was
    /// made for.
    pub fn readable(&self, depth: usize, extent: Extent) -> Result<Extent> {
        let holds_bytes = !matches!(extent.place, Place::Zero { .. } | Place::Unallocated);
        if holds_bytes && !self.shows(depth) {
            return Err(Error::new(Kind::Io(EINVAL), "Invalid argument"));
        }
        Ok(extent)
    }

    /// Every image above layer `depth` stands on the one that it was made for.
    #[must_use]
    pub fn shows(&self, depth: usize) -> bool {
        let pairs = self.layers.iter().zip(self.layers.iter().skip(1)).take(depth);
        pairs.map(|(above, below)| (above.image.identity(), below)).all(|(above, below)| {
            // Most formats do not care.
            above.is_none_or(|above| below.image.identity().is_some_and(|below| below.own == above.backing))
        })
    }
}
