//! An open image: one encrypted range of the file.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use instar_crypto::Crypter;
use instar_crypto::luks::Header;
use instar_crypto::luks::slots::{Opener, SlotChange};
use instar_image::{
    Amendment, Changes, Compressed, Decoder, Description, DeviceId, Editor, Error, Extent, FileOffset, Image, Place,
    Purpose, Resizing, Result, Value,
};

use crate::write::LuksWriter;
use crate::{KEY_SECRET, SECTOR};

/// How sectors are encrypted.
#[derive(Clone, Copy)]
pub struct Sectors {
    /// Bytes that are encrypted together: 512 to 4096.
    pub unit: u32,
    /// Number of the disk's first sector, in 512 bytes.
    pub first: u64,
}

/// The disk lies in one piece at `data` in the device.
pub struct LuksImage<'a> {
    /// The device.
    pub device: DeviceId,
    /// The one that the header is on, if that is another, and its name.
    pub detached: Option<(DeviceId, Vec<u8>)>,
    /// Where in the device the disk begins.
    pub data: FileOffset,
    /// Bytes of the disk.
    pub size: u64,
    /// How they are encrypted.
    pub sectors: Sectors,
    /// Absent where only the header was asked for.
    pub crypter: Option<Arc<Crypter>>,
    /// What it was opened for, if its version can be written.
    pub writing: Option<Purpose<'a>>,
    /// Once it is being changed.
    pub editor: Option<LuksWriter<'a>>,
    /// The header of version 1, and what opens it.
    pub slots: Option<(Header, Opener)>,
    /// What `info` shows.
    pub specific: Value,
}

impl LuksImage<'_> {
    fn header_device(&self) -> DeviceId {
        self.detached.as_ref().map_or(self.device, |(device, _)| *device)
    }
}

impl Image for LuksImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let place = Place::Encrypted { device: self.device, offset: self.data.saturating_add(at) };
        Ok(Extent { at, len: max.min(self.size.saturating_sub(at)), place })
    }

    fn begin(&mut self, _changes: &Changes<'_>) -> Option<Result<()>> {
        let purpose = self.writing?;
        Some(LuksWriter::open(self, purpose).map(|editor| self.editor = Some(editor)))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(|editor| editor as &dyn Editor)
    }

    fn resizing(&self) -> Option<&dyn Resizing> {
        self.writing.map(|_| self as &dyn Resizing)
    }

    fn amend(&mut self, what: &Amendment<'_>) -> Option<Result<()>> {
        let ((header, opener), purpose) = (self.slots.as_ref()?, self.writing?);
        let change = || {
            let (machine, wanted) = (purpose.machine()?, SlotChange::read(what.options, "", what.force)?);
            let opening = opener.password(machine.source(), KEY_SECRET)?;
            header.change_slots(machine, (self.header_device(), FileOffset::ZERO), opening, &wanted)
        };
        Some(change())
    }

    fn describe(&self) -> Result<Description> {
        let children = self.detached.iter().map(|(device, _)| ("header".to_string(), *device)).collect();
        let specific = Some(self.specific.clone());
        Ok(Description { encrypted: true, specific, children, ..Description::default() })
    }

    fn data_files(&self) -> Vec<(DeviceId, Vec<u8>)> {
        self.detached.iter().cloned().collect()
    }

    fn decoder(&self) -> Option<Box<dyn Decoder + '_>> {
        Some(Box::new(Decrypter { crypter: self.crypter.as_deref()?, sectors: self.sectors }))
    }
}

struct Decrypter<'a> {
    crypter: &'a Crypter,
    sectors: Sectors,
}

impl Decoder for Decrypter<'_> {
    fn decompress(&mut self, _compressed: &Compressed, _stored: &[u8], _out: &mut [u8]) -> Result<()> {
        Err(Error::corrupt("compressed data in a format that has none"))
    }

    fn unit(&self) -> u64 {
        u64::from(self.sectors.unit)
    }

    /// Sectors are counted from the disk's beginning on.
    fn decrypt(&mut self, at: u64, _offset: FileOffset, data: &mut [u8]) -> Result<()> {
        let first = self.sectors.first.wrapping_add(at / SECTOR);
        self.crypter.decrypt_units(first, self.sectors.unit as usize, data);
        Ok(())
    }
}
