//! An open image: one encrypted range of the file.

use alloc::boxed::Box;

use instar_crypto::Crypter;
use instar_image::{Description, DeviceId, Error, Extent, Image, Packed, Place, Result, Unpacker, Value};

use crate::SECTOR;

/// The disk lies in one piece at byte `data` of the device.
pub struct LuksImage {
    /// The device.
    pub device: DeviceId,
    /// Byte of the device at which the disk begins.
    pub data: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// Absent where only the header was asked for.
    pub crypter: Option<Crypter>,
    /// What `info` shows.
    pub specific: Value,
}

impl Image for LuksImage {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let place = Place::Encrypted { device: self.device, offset: self.data.saturating_add(at) };
        Ok(Extent { at, len: max.min(self.size.saturating_sub(at)), place })
    }

    fn describe(&self) -> Result<Description> {
        Ok(Description { encrypted: true, specific: Some(self.specific.clone()), ..Description::default() })
    }

    fn unpacker(&self) -> Option<Box<dyn Unpacker + '_>> {
        Some(Box::new(Decrypter(self.crypter.as_ref()?)))
    }
}

struct Decrypter<'a>(&'a Crypter);

impl Unpacker for Decrypter<'_> {
    fn unpack(&mut self, _packed: &Packed, _stored: &[u8], _out: &mut [u8]) -> Result<()> {
        Err(Error::corrupt("compressed data in a format that has none"))
    }

    /// Sectors are counted from the disk's beginning on.
    fn decrypt(&mut self, at: u64, _offset: u64, data: &mut [u8]) -> Result<()> {
        self.0.decrypt(at / SECTOR, data);
        Ok(())
    }
}
