//! The cloop format (compressed loop), version 2.0.
//!
//! [`header`] parses the header and checks the table of blocks; every block is one zlib stream, which [`compressed`]
//! decompresses.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod compressed;
mod header;
pub mod layout;

use alloc::boxed::Box;

use instar_image::options::check_driver_options;
use instar_image::table::TableCache;
use instar_image::{
    Compressed, Decoder, DeviceId, Error, Extent, FileOffset, Format, Image, OpenContext, Place, Probe, Purpose, Quirk,
    Result, SafetyCheck,
};
use spin::Mutex;

use crate::compressed::CloopDecoder;
use crate::header::Header;
use crate::layout::{SCRIPT, SECTOR};

/// Most bytes that one of deflate can stand for.
const DEFLATE_RATIO: u64 = 1032;

/// The format.
pub struct Cloop;

impl Format for Cloop {
    fn name(&self) -> &'static str {
        "cloop"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.head.starts_with(SCRIPT) { 2 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        let image = open(&cx)?;
        if !matches!(cx.purpose, Purpose::Salvage) {
            image.header.check_table(&cx)?;
        }
        Ok(Box::new(image))
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // The driver has no `get_info`.
            Quirk::NoDriverInfo,
            // The driver has no `block_status`.
            Quirk::NoBlockStatus,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::NoneNeeded("an image names no other file"),
            SafetyCheck::Checked("blocks are bounded, stored and decompressed; the table is read in pieces"),
        ]
    }
}

fn open<'a>(cx: &OpenContext<'a, '_>) -> Result<CloopImage<'a>> {
    check_driver_options("cloop", cx.options, &[])?;
    if cx.purpose.writes() {
        return Err(Error::unsupported("Image is read-only"));
    }
    let header = Header::read(cx)?;
    let stored_max = (header.block * 2 + 4096).min(cx.source.stat(cx.device)?.len);
    let table = Mutex::new(TableCache::new(cx.source, cx.device));
    Ok(CloopImage { header, device: cx.device, stored_max, table })
}

/// An open image.
struct CloopImage<'a> {
    header: Header,
    device: DeviceId,
    /// Most bytes that are read of a stored block: deflate never needs that many, what follows is junk.
    stored_max: u64,
    table: Mutex<TableCache<'a, 8>>,
}

impl Image for CloopImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.header.size()
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let left = self.header.size().saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let (index, skip) = (at / self.header.block, at % self.header.block);
        let mut table = self.table.lock();
        let mut entry = |i| Ok(table.entry(self.header.table, i)?.map_or(FileOffset::ZERO, header::offset));
        let of_block = |e: Error| e.losing(self.header.block - skip);
        let (offset, end) = (entry(index).map_err(of_block)?, entry(index + 1).map_err(of_block)?);
        let len = end.saturating_since(offset).min(self.stored_max);
        // What cannot become a block takes no memory of one.
        let hopeless = self.header.block > len.saturating_mul(DEFLATE_RATIO);
        let device = self.device;
        let (rest, compressed) = if hopeless {
            (
                SECTOR - at % SECTOR,
                Compressed { device, offset: FileOffset::ZERO, len: 0, unit: SECTOR, skip: at % SECTOR },
            )
        } else {
            (self.header.block - skip, Compressed { device, offset, len, unit: self.header.block, skip })
        };
        Ok(Extent { at, len: rest.min(left), place: Place::Compressed(compressed) })
    }

    fn decoder(&self) -> Option<Box<dyn Decoder + '_>> {
        Some(Box::<CloopDecoder>::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Cloop.probe(&Probe { head, len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn the_whole_script_is_needed() {
        assert_eq!(score(SCRIPT), 2);
        assert_eq!(score(&SCRIPT[..20]), 0);
    }
}
