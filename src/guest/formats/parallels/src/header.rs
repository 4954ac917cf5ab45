//! The header, parsed once into checked values.

use instar_image::blocks::Blocks;
use instar_image::reader::Reader;
use instar_image::table::Span;
use instar_image::{DeviceId, Error, FileOffset, OpenContext, Result, Version};

use crate::layout::{
    ENTRIES_MAX, ENTRY, HEADER_LEN, IN_USE, MAGIC_CLUSTERS, MAGIC_SECTORS, SECTOR, SECTORS_MAX, TRACKS_MAX, VERSION,
    field, is_absent,
};

/// What the header says.
#[derive(Clone, Debug)]
pub struct Header {
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
    /// The map.
    pub map: Span,
    /// What a map entry is multiplied with to be a byte offset.
    pub entry_unit: u64,
    /// First sector of the clusters, as the header says.
    pub data: u32,
    /// The image was not closed.
    pub in_use: bool,
    /// Where the format extension is; 0: none.
    pub extension: FileOffset,
}

impl Header {
    /// Reads and checks it, in the order in which the stock tool does.
    pub fn read(cx: &OpenContext<'_, '_>) -> Result<Self> {
        let mut head = [0; HEADER_LEN];
        cx.source.read(cx.device, FileOffset::ZERO, &mut head)?;
        let read = Reader::new(&head);
        let other = || Error::malformed("Image not in Parallels format");
        let in_clusters = head.starts_with(MAGIC_CLUSTERS);
        if read.le32(field::VERSION)? != VERSION || !(in_clusters || head.starts_with(MAGIC_SECTORS)) {
            return Err(other());
        }
        let tracks = read.le32(field::TRACKS)?;
        if tracks == 0 {
            return Err(Error::malformed("Invalid image: Zero sectors per track"));
        }
        if tracks > TRACKS_MAX {
            return Err(Error::malformed("Invalid image: Too big cluster"));
        }
        let entries = read.le32(field::ENTRIES)?;
        if entries > ENTRIES_MAX {
            return Err(Error::limit("Catalog too large"));
        }
        let said = read.le64(field::SECTORS)?;
        let sectors = if in_clusters { said } else { said & u64::from(u32::MAX) };
        if cx.version >= Version::V11_1 && sectors.div_ceil(u64::from(tracks)) > u64::from(entries) {
            return Err(Error::malformed("Invalid image: Catalog size too small for advertised disk size"));
        }
        if sectors > SECTORS_MAX {
            return Err(Error::limit("Could not refresh total sector count: File too large"));
        }
        let cluster = u64::from(tracks) * SECTOR;
        let extension = read.le64(field::EXTENSION)?;
        if extension > i64::MAX as u64 / SECTOR {
            return Err(Error::malformed("Invalid image: Too big offset"));
        }
        let map = Span { offset: FileOffset::new(HEADER_LEN as u64), count: u64::from(entries) };
        map.check_held(cx.source, cx.device, ENTRY)?;
        Ok(Self {
            size: sectors * SECTOR,
            cluster,
            map,
            entry_unit: if in_clusters { cluster } else { SECTOR },
            data: read.le32(field::DATA_OFFSET)?,
            in_use: read.le32(field::IN_USE)? == IN_USE,
            extension: FileOffset::new(extension * SECTOR),
        })
    }

    /// The map, of an image on `device`.
    pub const fn blocks(&self, device: DeviceId) -> Blocks {
        Blocks {
            device,
            size: self.size,
            block: self.cluster,
            table: self.map,
            base: FileOffset::ZERO,
            scale: self.entry_unit,
            absent: is_absent,
            big_endian: false,
            backed: true,
        }
    }

    /// Where what a map entry refers to is; 0: nothing.
    pub const fn place(&self, entry: u32) -> FileOffset {
        FileOffset::new((entry as u64).saturating_mul(self.entry_unit))
    }

    /// Where the clusters begin, as the header says.
    pub fn data_at(&self) -> FileOffset {
        FileOffset::new(u64::from(self.data) * SECTOR)
    }

    /// The first place from `offset` on where a cluster can begin.
    pub const fn align(&self, offset: FileOffset) -> FileOffset {
        offset.next_multiple_of(if self.entry_unit == self.cluster { self.cluster } else { SECTOR })
    }

    /// Behind header and map.
    pub fn map_end(&self) -> FileOffset {
        self.map.offset + self.map.count * ENTRY
    }
}
