//! Extents, the common currency: where a range of the virtual disk lies.

use crate::{DeviceId, FileOffset};

/// A range of the virtual disk that lies in one place. `len` is never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte of the range, in the virtual disk.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Where it lies.
    pub place: Place,
}

/// Where an extent's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Plain bytes, as many as the extent is long. They may lie past the end of the device (zeroes then).
    Data {
        /// The device.
        device: DeviceId,
        /// Where in the device.
        offset: FileOffset,
    },
    /// Part or all of one compressed unit.
    Compressed(Compressed),
    /// Plain bytes once decrypted; [`crate::Decoder::decrypt`] does that.
    Encrypted {
        /// The device.
        device: DeviceId,
        /// Where in the device.
        offset: FileOffset,
    },
    /// Reads as zeroes, whatever lies below. `at`: blocks are reserved for it there.
    Zero {
        /// Device and offset of reserved blocks, if any.
        at: Option<(DeviceId, FileOffset)>,
    },
    /// This image says nothing: the backing file's content, or zeroes where there is none.
    Unallocated,
}

/// A compressed unit (cluster, grain, chunk), and which part of it an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// The device.
    pub device: DeviceId,
    /// Byte offset of the compressed bytes.
    pub offset: FileOffset,
    /// How many bytes to read there: an upper bound, not always the exact length.
    pub len: u64,
    /// Length of the whole unit once decompressed, in bytes.
    pub unit: u64,
    /// Where in the unit the extent begins, in bytes.
    pub skip: u64,
}

impl Extent {
    /// The part of the extent from `at` (which must lie in it) on, at most `max` bytes long.
    #[must_use]
    pub fn slice(&self, at: u64, max: u64) -> Self {
        let skip = at.saturating_sub(self.at).min(self.len);
        let place = match self.place {
            Place::Data { device, offset } => Place::Data { device, offset: offset.saturating_add(skip) },
            Place::Encrypted { device, offset } => Place::Encrypted { device, offset: offset.saturating_add(skip) },
            Place::Compressed(p) => Place::Compressed(Compressed { skip: p.skip.saturating_add(skip), ..p }),
            Place::Zero { at } => Place::Zero { at: at.map(|(d, o)| (d, o.saturating_add(skip))) },
            Place::Unallocated => Place::Unallocated,
        };
        Self { at: self.at.saturating_add(skip), len: self.len.saturating_sub(skip).min(max), place }
    }

    /// The byte after the last one.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }
}
