//! The writer whose clusters are all in place and in one piece from the start: byte `n` of the disk is byte `base + n` of
//! the file (preallocation), or byte `n` of the data file.

use alloc::vec::Vec;

use instar_image::sealed::Placed;
use instar_image::write::{Encrypter, Piece, Target, Writer};
use instar_image::{DeviceId, Error, FileOffset, Result};

use super::NewImage;
use super::fresh::Layout;

/// Writes an image whose clusters lie as in the disk.
pub struct Linear<'a> {
    image: NewImage<'a>,
    layout: Layout,
    /// Where the disk's first cluster is.
    base: FileOffset,
}

impl<'a> Linear<'a> {
    /// Reserves the clusters.
    pub fn new(image: NewImage<'a>, layout: Layout) -> Result<Self> {
        layout.reserve(&image)?;
        let base = layout.find(&image.spec, 0).map_or(FileOffset::ZERO, |(offset, _)| offset);
        Ok(Self { image, layout, base })
    }
}

impl Writer for Linear<'_> {
    fn target(&self) -> Target {
        let device: DeviceId = self.image.data.unwrap_or(self.image.device);
        // What is reserved and not written reads as nothing in particular once it is decrypted.
        match self.image.sealed {
            Some(_) => Target::LinearEncrypted { device, base: self.base },
            // What was there before shows where nothing is written.
            None => Target::Linear { device, base: self.base, zeroed: !self.image.spec.keep_data_file },
        }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the clusters of a preallocated image have their places"))
    }

    fn encrypter(&self) -> Option<&dyn Encrypter> {
        self.image.encrypter()
    }

    fn finish(&self) -> Result<()> {
        self.layout.finish(&self.image, None)
    }
}
