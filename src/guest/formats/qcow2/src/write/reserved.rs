//! The writer whose clusters are all in place from the start, but not in one piece, or with subclusters that tell what
//! has data from what is reserved only.

use alloc::vec::Vec;

use instar_image::sealed::Placed;
use instar_image::write::{Encrypter, Piece, Target, Writer};
use instar_image::{Error, Result, Step};
use spin::Mutex;

use super::NewImage;
use super::fresh::Layout;
use crate::refcount::allocator::Runs;

/// Writes an image in which every cluster has its place.
pub struct Reserved<'a> {
    image: NewImage<'a>,
    layout: Layout,
    /// Clusters of the disk that were placed.
    written: Mutex<Runs<u64>>,
}

impl<'a> Reserved<'a> {
    /// Reserves the clusters.
    pub fn new(image: NewImage<'a>, layout: Layout) -> Result<Self> {
        layout.reserve(&image)?;
        Ok(Self { image, layout, written: Mutex::new(Runs::default()) })
    }
}

impl Writer for Reserved<'_> {
    fn target(&self) -> Target {
        let unit = self.image.spec.cluster();
        // Without subclusters, what is reserved and not written reads as nothing in particular once it is decrypted.
        let told_apart = self.image.spec.extended_l2 || self.image.sealed.is_none();
        Target::Allocated { unit, zero_unit: unit, zeroed: self.image.spec.backing.is_none() && told_apart }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        let spec = &self.image.spec;
        let device = self.image.data.unwrap_or(self.image.device);
        let len = match piece {
            Piece::Data(bytes) => bytes.len() as u64,
            Piece::Copy(_, _, len) | Piece::Zero(len) => len,
            Piece::Compressed(_) => return Err(Error::unsupported("compressed clusters cannot be reserved")),
        };
        let mut done = 0;
        while done < len {
            let found = self.layout.find(spec, at + done);
            let (offset, room) = found.ok_or_else(|| Error::corrupt("a write behind the end of the disk"))?;
            let part = room.min(len - done);
            let place = at + done;
            let placed = match (piece, self.image.encrypter()) {
                // What is reserved stays so.
                (Piece::Zero(_), None) => Some(Placed::Step(Step::Zero { device, offset, len: part, unmap: false })),
                (_, encrypter) => piece.placed((done, part), place, device, offset, encrypter),
            };
            steps.push(placed.ok_or_else(|| Error::corrupt("a piece that cannot be put into a reserved place"))?);
            done += part;
        }
        let bits = spec.cluster_bits;
        self.written.lock().insert(at >> bits, (at + len).div_ceil(spec.cluster()));
        Ok(())
    }

    fn encrypter(&self) -> Option<&dyn Encrypter> {
        self.image.encrypter()
    }

    fn finish(&self) -> Result<()> {
        self.layout.finish(&self.image, Some(&self.written.lock()))
    }
}
