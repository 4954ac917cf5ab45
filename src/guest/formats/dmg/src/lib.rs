//! The DMG format (Apple's UDIF): chunks of a disk, each compressed in its own way.
//!
//! [`trailer`] is where the file is parsed from: it says where the [`tables`] are, in a property list or in a resource
//! fork. All [`chunks`] of them are held in memory, bounded; [`compressed`] decompresses them. There is no magic at the
//! start: as with `qemu-img`, the name decides, and only where nothing else does.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod chunks;
mod compressed;
pub mod layout;
mod tables;
mod trailer;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::machine::display_name;
use instar_image::options::check_driver_options;
use instar_image::{
    Compressed, Decoder, DeviceId, Error, Extent, FileOffset, Format, Image, OpenContext, Place, Probe, Quirk, Result,
    SafetyCheck,
};

use crate::chunks::{Chunk, Chunks, Found};
use crate::compressed::DmgDecoder;
use crate::layout::{SECTOR, kind};
use crate::trailer::Trailer;

const SUFFIX: &[u8] = b".dmg";
/// Most bytes of a disk (QEMU's block layer).
const SIZE_MAX: u64 = (1 << 63) - (1 << 30);

/// Most bytes that one of deflate can stand for.
const DEFLATE_RATIO: u64 = 1032;

/// The format.
pub struct Dmg;

impl Format for Dmg {
    fn name(&self) -> &'static str {
        "dmg"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.name.len() > SUFFIX.len() && probe.name.ends_with(SUFFIX) { 2 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        check_driver_options(self.name(), cx.options, &[])?;
        if cx.purpose.writes() {
            return Err(Error::unsupported("Image is read-only"));
        }
        let trailer = Trailer::read(&cx)?;
        let (mut chunks, stock) = (Chunks::default(), cx.source.is_stock());
        let read = if trailer.resources.1 != 0 {
            tables::from_resources(&cx, trailer.resources, trailer.data, !stock, &mut chunks)
        } else if trailer.plist.1 != 0 {
            tables::from_plist(&cx, trailer.plist, trailer.data, !stock, &mut chunks)
        } else {
            Err(invalid(&cx))
        };
        read.map_err(|e| match e.earlier {
            Some(text) => invalid(&cx).after(text),
            None => e,
        })?;
        if trailer.sectors > SIZE_MAX / SECTOR {
            return Err(Error::limit("Could not refresh total sector count: File too large"));
        }
        if !stock {
            chunks.sort();
        }
        let (device, end) = (cx.device, cx.source.stat(cx.device)?.end());
        Ok(Box::new(DmgImage { size: trailer.sectors * SECTOR, device, end, chunks }))
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
            SafetyCheck::Checked("chunks are bounded in number and size, tables are read in pieces"),
        ]
    }
}

/// What the stock tool says where it says nothing in particular.
fn invalid(cx: &OpenContext<'_, '_>) -> Error {
    Error::malformed("Invalid argument").context(format!("Could not open '{}'", display_name(cx.name)))
}

/// An open image.
struct DmgImage {
    /// Virtual size in bytes.
    size: u64,
    device: DeviceId,
    /// End of the file.
    end: FileOffset,
    chunks: Chunks,
}

impl DmgImage {
    /// Where the bytes from `skip` of a chunk on are, and how many of them.
    fn place(&self, chunk: &Chunk, skip: u64) -> (u64, Place) {
        let left = chunk.count.saturating_mul(SECTOR) - skip;
        let length = u64::from(chunk.length);
        let device = self.device;
        if matches!(chunk.kind, kind::ZERO | kind::IGNORE) {
            return (left, Place::Zero { at: None });
        }
        if chunk.offset > FileOffset::END_MAX - length {
            return (left, self.unreadable(skip));
        }
        if chunk.kind == kind::ZLIB && chunk.count * SECTOR > length.saturating_mul(DEFLATE_RATIO) {
            // Not worth the memory: it cannot become that long.
            return (left, self.unreadable(skip));
        }
        if chunk.is_compressed() {
            // No codec needs more than that for so many bytes: what follows is junk.
            let stored = length.min(chunk.count * SECTOR * 2 + 4096).min(self.end.saturating_since(chunk.offset));
            let unit = chunk.count * SECTOR;
            return (left, Place::Compressed(Compressed { device, offset: chunk.offset, len: stored, unit, skip }));
        }
        // Of a chunk that is shorter than its sectors, the rest is zeroes.
        match length.saturating_sub(skip) {
            0 => (left, Place::Zero { at: None }),
            stored => (left.min(stored), Place::Data { device, offset: chunk.offset + skip }),
        }
    }

    /// What has no place is told when it is read.
    const fn unreadable(&self, skip: u64) -> Place {
        Place::Compressed(Compressed {
            device: self.device,
            offset: FileOffset::ZERO,
            len: 0,
            unit: SECTOR,
            skip: skip % SECTOR,
        })
    }
}

impl Image for DmgImage {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let left = self.size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let (sector, inside) = (at / SECTOR, at % SECTOR);
        let (len, place) = match self.chunks.find(sector) {
            Found::In(chunk) => self.place(&chunk, sector.wrapping_sub(chunk.sector).saturating_mul(SECTOR) + inside),
            Found::Nowhere => (SECTOR - inside, self.unreadable(inside)),
        };
        let len = if matches!(place, Place::Compressed(p) if p.len == 0) { len.min(SECTOR - inside) } else { len };
        Ok(Extent { at, len: len.min(left), place })
    }

    fn warnings(&self) -> Vec<String> {
        let text =
            |kind| format!("Image contains chunks of unknown type {kind:x}, accessing them will result in I/O errors");
        self.chunks.unknown.map(text).into_iter().collect()
    }

    fn decoder(&self) -> Option<Box<dyn Decoder + '_>> {
        Some(Box::new(DmgDecoder::new(&self.chunks)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Dmg.probe(&Probe { head, len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn the_name_decides() {
        let named = |name| Dmg.probe(&Probe { head: &[], len: 1, name });
        assert_eq!(named(b"x.dmg"), 2);
        assert_eq!(named(b".dmg"), 0);
        assert_eq!(named(b"x.DMG"), 0);
        assert_eq!(score(b"koly"), 0);
    }
}
