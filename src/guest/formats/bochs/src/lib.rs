//! The growing image format of Bochs, versions 1 and 2.
//!
//! [`header`] parses the header once, into checked values; [`map`] turns ranges of the virtual disk into places in the
//! file through the catalog of extents and their bitmaps. Undoable and volatile redo logs, which need the disk below,
//! are refused, as the stock tool does.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod header;
pub mod layout;
mod map;

use alloc::boxed::Box;

use instar_image::options::check_driver_options;
use instar_image::reader::Reader;
use instar_image::{Compressed, Decoder, Error, Extent, Format, Image, OpenContext, Probe, Quirk, Result, SafetyCheck};

use crate::header::Header;
use crate::map::Map;

/// The format.
pub struct Bochs;

impl Format for Bochs {
    fn name(&self) -> &'static str {
        "bochs"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if header::is_known(Reader::new(probe.head)) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        check_driver_options(self.name(), cx.options, &[])?;
        if cx.purpose.writes() {
            return Err(Error::unsupported("Image is read-only"));
        }
        Ok(Box::new(BochsImage { header: Header::read(&cx)?, map: Map::new(cx.source, cx.device) }))
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
            SafetyCheck::Checked("catalog and extents are bounded; the catalog is read in pieces"),
        ]
    }
}

/// An open image.
struct BochsImage<'a> {
    header: Header,
    map: Map<'a>,
}

impl Image for BochsImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.header.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        self.map.extent(&self.header, at, max)
    }

    fn decoder(&self) -> Option<Box<dyn Decoder + '_>> {
        Some(Box::new(Nothing))
    }
}

/// Nothing is compressed: what has no place in any file is all that comes here.
struct Nothing;

impl Decoder for Nothing {
    fn decompress(&mut self, _compressed: &Compressed, _stored: &[u8], _out: &mut [u8]) -> Result<()> {
        Err(Error::malformed("Input/output error"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{KIND, MAGIC, SUBKIND};

    fn score(head: &[u8]) -> u32 {
        Bochs.probe(&Probe { head, len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn a_growing_redolog_of_a_known_version() {
        let mut head = [0; 512];
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        head[32..40].copy_from_slice(KIND.1);
        head[48..56].copy_from_slice(SUBKIND.1);
        assert_eq!(score(&head), 0);
        head[66] = 2;
        assert_eq!(score(&head), 100);
        assert_eq!(score(&head[..67]), 0);
        head[48] = b'U';
        assert_eq!(score(&head), 0);
    }
}
