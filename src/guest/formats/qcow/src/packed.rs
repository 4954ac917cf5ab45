//! Decompression and decryption of clusters.

use instar_codec::Inflater;
use instar_crypto::Crypter;
use instar_image::{Error, Packed, Result, Unpacker};

use crate::layout::SECTOR;

/// Raw deflate, and the encryption if there is one.
pub struct QcowUnpacker<'a> {
    inflater: Inflater,
    crypter: Option<&'a Crypter>,
}

impl<'a> QcowUnpacker<'a> {
    /// Of an image whose clusters `crypter` decrypts.
    pub fn new(crypter: Option<&'a Crypter>) -> Self {
        Self { inflater: Inflater::default(), crypter }
    }
}

impl Unpacker for QcowUnpacker<'_> {
    fn unpack(&mut self, _packed: &Packed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let len = self.inflater.inflate(stored, out);
        if len.is_ok_and(|n| n == out.len()) { Ok(()) } else { Err(Error::malformed("Input/output error")) }
    }

    /// Sectors are counted in the disk.
    fn decrypt(&mut self, at: u64, _offset: u64, data: &mut [u8]) -> Result<()> {
        let crypter = self.crypter.ok_or_else(|| Error::usage("the image was opened without its key"))?;
        crypter.decrypt(at / SECTOR, data);
        Ok(())
    }
}
