//! What a writer asks for, and what may be submitted of it: nothing of an encrypted disk before it is encrypted.

use alloc::vec::Vec;

use crate::write::Encrypter;
use crate::{DeviceId, Error, FileOffset, Machine, Result, Step};

/// A step that a writer asks for: it borrows the piece, or owns metadata that the writer made.
#[derive(Clone, Debug)]
pub enum Placed<'p> {
    /// Borrowed bytes, which are stored as they are.
    Step(Step<'p>),
    /// Owned bytes to write.
    Owned {
        /// The device.
        device: DeviceId,
        /// Where in it.
        offset: FileOffset,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Plain bytes of the disk, which are stored encrypted.
    Plain {
        /// The device.
        device: DeviceId,
        /// Where in it.
        offset: FileOffset,
        /// Byte of the virtual disk.
        at: u64,
        /// The bytes, whole sectors.
        data: &'p [u8],
    },
}

impl<'p> Placed<'p> {
    /// Encrypted zeroes for byte `at` of the virtual disk.
    #[must_use]
    pub fn sealed_zeroes(encrypter: &dyn Encrypter, at: u64, device: DeviceId, offset: FileOffset, len: u64) -> Self {
        let mut data = alloc::vec![0; usize::try_from(len).unwrap_or(0)];
        encrypter.encrypt(at, offset, &mut data);
        Self::Owned { device, offset, data }
    }

    /// Plain bytes encrypted; everything else as it is.
    ///
    /// # Errors
    /// There are plain bytes, and nothing to encrypt them with.
    pub fn seal(self, encrypter: Option<&dyn Encrypter>) -> Result<Sealed<'p>> {
        Ok(Sealed(match self {
            Self::Step(step) => Ready::Step(step),
            Self::Owned { device, offset, data } => Ready::Owned { device, offset, data },
            Self::Plain { device, offset, at, data } => {
                let encrypter = encrypter.ok_or_else(|| Error::corrupt("plain bytes for an encrypted disk"))?;
                let mut data = data.to_vec();
                encrypter.encrypt(at, offset, &mut data);
                Ready::Owned { device, offset, data }
            }
        }))
    }
}

/// A step in which nothing is to be encrypted any more.
#[derive(Clone, Debug)]
pub struct Sealed<'p>(Ready<'p>);

#[derive(Clone, Debug)]
enum Ready<'p> {
    Step(Step<'p>),
    Owned { device: DeviceId, offset: FileOffset, data: Vec<u8> },
}

impl Sealed<'_> {
    /// What is submitted.
    #[must_use]
    pub fn step(&self) -> Step<'_> {
        match &self.0 {
            Ready::Step(step) => *step,
            Ready::Owned { device, offset, data } => Step::Write { device: *device, offset: *offset, data },
        }
    }
}

/// Seals all of them, in their order.
///
/// # Errors
/// See [`Placed::seal`].
pub fn seal<'p>(
    steps: impl IntoIterator<Item = Placed<'p>>,
    encrypter: Option<&dyn Encrypter>,
) -> Result<Vec<Sealed<'p>>> {
    steps.into_iter().map(|step| step.seal(encrypter)).collect()
}

/// Seals and submits all of them, in their order.
///
/// # Errors
/// See [`Placed::seal`]; the host's.
pub fn submit<'p>(
    machine: &dyn Machine,
    steps: impl IntoIterator<Item = Placed<'p>>,
    encrypter: Option<&dyn Encrypter>,
) -> Result<()> {
    let sealed = seal(steps, encrypter)?;
    let steps: Vec<Step<'_>> = sealed.iter().map(Sealed::step).collect();
    if steps.is_empty() { Ok(()) } else { machine.submit(&steps) }
}
