//! Filling images with bytes: what convert drives.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::sealed::Placed;
use crate::{DeviceId, Error, FileOffset, Result, Step};

/// How disk bytes reach the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Byte `n` of the disk is byte `base + n` of `device`: plain bytes are copied there by the host, and
    /// [`Writer::place`] is not called for them.
    Linear {
        /// The device.
        device: DeviceId,
        /// Where the disk begins in it.
        base: FileOffset,
        /// The target reads as zeroes wherever nothing was written.
        zeroed: bool,
    },
    /// The same, encrypted: what is put there is made by [`Writer::encrypter`], and passes through the guest.
    LinearEncrypted {
        /// The device.
        device: DeviceId,
        /// Where the disk begins in it.
        base: FileOffset,
    },
    /// The writer allocates: [`Writer::place`] is called for whole units in ascending order.
    Allocated {
        /// Bytes of a unit (cluster, grain, block); pieces begin on and are made of whole units, but for the
        /// end of the disk.
        unit: u64,
        /// Bytes in whose multiples zeroes are worth detecting (a unit, or a subcluster of it).
        zero_unit: u64,
        /// The target reads as zeroes wherever nothing was placed (false: over a backing file, or an existing image).
        zeroed: bool,
    },
}

/// What is to be placed, all of it at one spot of the virtual disk.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'p> {
    /// Plain bytes: whole units (the disk's last one may be short). No byte of a unit is undefined.
    Data(&'p [u8]),
    /// Plain bytes that the host copies: device, offset there, length.
    Copy(DeviceId, FileOffset, u64),
    /// One unit, compressed by this writer's [`Compressor`].
    Compressed(&'p [u8]),
    /// So many bytes must read as zeroes.
    Zero(u64),
}

impl<'p> Piece<'p> {
    /// Bytes of the disk that it is for; `None` of a compressed one, which is for one unit.
    #[must_use]
    pub const fn disk_len(&self) -> Option<u64> {
        match self {
            Self::Data(bytes) => Some(bytes.len() as u64),
            Self::Copy(_, _, len) | Self::Zero(len) => Some(*len),
            Self::Compressed(_) => None,
        }
    }

    /// Its `len` bytes from `skip` on. None of a compressed piece.
    #[must_use]
    pub fn part(self, skip: u64, len: u64) -> Option<Self> {
        Some(match self {
            Self::Data(bytes) => {
                Self::Data(bytes.get(usize::try_from(skip).ok()?..usize::try_from(skip.checked_add(len)?).ok()?)?)
            }
            Self::Copy(from, offset, _) => Self::Copy(from, offset.checked_add(skip)?, len),
            Self::Zero(_) => Self::Zero(len),
            Self::Compressed(_) => return None,
        })
    }

    /// What puts its `len` bytes from `skip` on to `offset` in `device`. None of a compressed piece.
    #[must_use]
    pub fn step(self, skip: u64, len: u64, device: DeviceId, offset: FileOffset) -> Option<Step<'p>> {
        Some(match self.part(skip, len)? {
            Self::Data(data) => Step::Write { device, offset, data },
            Self::Copy(from, from_offset, len) => {
                Step::Copy { from, from_offset, to: device, to_offset: offset, len, zeroes: crate::Zeroes::Copied }
            }
            Self::Zero(len) => Step::Zero { device, offset, len, unmap: true },
            Self::Compressed(_) => return None,
        })
    }

    /// The same for a target that may encrypt; the part is for byte `at` of the disk. None, too, of what the host would
    /// copy into an encrypted image.
    #[must_use]
    pub fn placed(
        self,
        (skip, len): (u64, u64),
        at: u64,
        device: DeviceId,
        offset: FileOffset,
        encrypter: Option<&dyn Encrypter>,
    ) -> Option<Placed<'p>> {
        let Some(encrypter) = encrypter else { return self.step(skip, len, device, offset).map(Placed::Step) };
        match self.part(skip, len)? {
            Self::Data(data) => Some(Placed::Plain { device, offset, at, data }),
            Self::Zero(len) => Some(Placed::sealed_zeroes(encrypter, at, device, offset, len)),
            Self::Copy(..) | Self::Compressed(_) => None,
        }
    }

    /// Puts the piece at byte `at` of a disk of `size` bytes into blocks of `block` bytes each, wherever `find` says that
    /// the block of that number begins in `device`: `None` leaves it out. Blocks that follow one another there are
    /// written at once.
    pub fn spread(
        self,
        (at, size): (u64, u64),
        block: u64,
        device: DeviceId,
        steps: &mut Vec<Placed<'p>>,
        mut find: impl FnMut(u64) -> Result<Option<FileOffset>>,
    ) -> Result<()> {
        let len = self.disk_len().ok_or_else(|| Error::unsupported("the format has no compressed blocks"))?;
        // The end of the disk need not be the end of a unit.
        let len = len.min(size.saturating_sub(at));
        // What is to be written next: from where in the piece, how much, where to.
        let mut run: Option<(u64, u64, FileOffset)> = None;
        let mut done = 0;
        while done < len {
            let inside = (at + done) % block;
            let part = (block - inside).min(len - done);
            let found = find((at + done) / block)?.map(|offset| offset.saturating_add(inside));
            run = match (run, found) {
                (Some((skip, before, to)), Some(offset)) if to + before == offset => Some((skip, before + part, to)),
                (old, found) => {
                    let step = old.and_then(|(skip, len, to)| self.step(skip, len, device, to));
                    steps.extend(step.map(Placed::Step));
                    found.map(|offset| (done, part, offset))
                }
            };
            done += part;
        }
        let step = run.and_then(|(skip, len, to)| self.step(skip, len, device, to));
        steps.extend(step.map(Placed::Step));
        Ok(())
    }
}

/// Compresses one unit at a time. Holds a worker's own codec state.
pub trait Compressor {
    /// Compresses `unit` into `out` (cleared first). False: it does not get smaller and is to be placed as
    /// [`Piece::Data`].
    fn compress(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<bool>;
}

/// Encrypts what a target stores. Shared by all workers.
pub trait Encrypter: Sync {
    /// Encrypts `data` in place, whole sectors of 512 bytes: it is for byte `at` of the virtual disk and goes to
    /// `offset` in its device.
    fn encrypt(&self, at: u64, offset: FileOffset, data: &mut [u8]);
}

/// An image in the making. `place` is called by one worker at a time, in ascending order of `at`; everything
/// that it decides is bookkeeping in memory, so that the bytes can be written by all workers at once.
pub trait Writer: Sync {
    /// How bytes reach it.
    fn target(&self) -> Target;

    /// The devices of a linear target that has several, in order, and how many bytes of the disk each of them holds but
    /// for the last one. The first is the target's.
    fn split(&self) -> Option<(u64, &[DeviceId])> {
        None
    }

    /// Finds a place for `piece` at byte `at` of the virtual disk, and adds the steps that put it there. Steps may
    /// borrow the piece's bytes.
    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()>;

    /// A compressor for one worker; `None`: the format has no compression.
    fn compressor(&self) -> Option<Box<dyn Compressor + '_>> {
        None
    }

    /// What encrypts the plain bytes of this image: those of a [`Target::LinearEncrypted`], and each [`Placed::Plain`].
    fn encrypter(&self) -> Option<&dyn Encrypter> {
        None
    }

    /// The image holds nothing but compressed units, whether that was asked for or not.
    fn always_compresses(&self) -> bool {
        false
    }

    /// So much waits in memory that [`Writer::settle`] is due. Asked between jobs, when no step is under way.
    fn is_full(&self) -> bool {
        false
    }

    /// Makes all that was placed part of an existing image, in an order in which it may be cut: places counted and
    /// written, then referred to, then old places given up. No step is under way. A new image has nothing to settle.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Writes what is left: tables, and the header last, with a barrier before it.
    fn finish(&self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::{Sealed, seal};
    use alloc::vec;

    const TO: DeviceId = DeviceId(7);

    /// Where the pieces of `piece` at byte `at` of a disk of 10 blocks of 10 bytes go: offset in the piece, length, place.
    fn spread(piece: Piece<'_>, at: u64, places: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
        let mut steps = Vec::new();
        let find =
            |block| Ok(places.iter().find(|(number, _)| *number == block).map(|(_, offset)| FileOffset::new(*offset)));
        piece.spread((at, 100), 10, TO, &mut steps, find).expect("nothing fails");
        let of = |step: &Sealed<'_>| match (step.step(), piece) {
            (Step::Copy { from_offset, to_offset, len, to: TO, .. }, Piece::Copy(_, base, _)) => {
                (from_offset - base, len, to_offset.get())
            }
            (Step::Write { device: TO, offset, data }, Piece::Data(all)) => {
                let skip = data.as_ptr() as usize - all.as_ptr() as usize;
                (skip as u64, data.len() as u64, offset.get())
            }
            (Step::Zero { device: TO, offset, len, .. }, Piece::Zero(_)) => (0, len, offset.get()),
            other => panic!("{other:?}"),
        };
        seal(steps, None).expect("nothing is encrypted").iter().map(of).collect()
    }

    #[test]
    fn blocks_that_follow_one_another_are_written_at_once() {
        let copy = |len| Piece::Copy(DeviceId(1), FileOffset::new(5000), len);
        assert_eq!(spread(copy(30), 0, &[(0, 100), (1, 110), (2, 120)]), [(0, 30, 100)]);
        assert_eq!(spread(copy(30), 0, &[(0, 100), (1, 120), (2, 130)]), [(0, 10, 100), (10, 20, 120)]);
        assert_eq!(spread(copy(25), 3, &[(0, 100), (1, 110), (2, 50)]), [(0, 17, 103), (17, 8, 50)]);
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        let data = vec![1; 40];
        assert_eq!(spread(Piece::Data(&data), 5, &[(1, 200), (4, 300)]), [(5, 10, 200), (35, 5, 300)]);
        assert_eq!(spread(Piece::Zero(20), 0, &[(1, 200)]), [(0, 10, 200)]);
    }

    #[test]
    fn the_end_of_the_disk_is_the_end() {
        let data = vec![1; 16];
        assert_eq!(spread(Piece::Data(&data), 96, &[(9, 500), (10, 510)]), [(0, 4, 506)]);
        assert_eq!(spread(Piece::Zero(16), 100, &[(10, 510)]), []);
    }
}
