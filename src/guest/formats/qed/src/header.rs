//! The header, parsed once into checked values.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::levels::Levels;
use instar_image::machine::display_name;
use instar_image::reader::Reader;
use instar_image::table::Span;
use instar_image::{Backing, DeviceId, Error, FileOffset, Kind, OpenContext, Result, Version};

use crate::layout::{
    BACKING_NAME_MAX, ENTRY, HEADER_LEN, MAGIC, SECTOR, ZERO, feature, field, is_cluster_size, is_table_size, plain,
    size_max,
};

/// What the header says.
#[derive(Clone, Debug)]
pub struct Header {
    /// Bytes of a cluster: a power of two.
    pub cluster: u64,
    /// Clusters of a table: a power of two.
    pub table: u64,
    /// Clusters of the header.
    pub header: u64,
    /// Features.
    pub features: u64,
    /// Where the L1 table is.
    pub l1: FileOffset,
    /// Virtual size in bytes.
    pub size: u64,
    /// The backing file.
    pub backing: Option<Backing>,
    /// Where its name is, and its length.
    pub backing_at: (FileOffset, u64),
    /// End of the file in whole clusters: no cluster lies behind.
    pub file_end: FileOffset,
}

impl Header {
    /// Reads and checks it, in the order in which the stock tool does.
    pub fn read(cx: &OpenContext<'_, '_>) -> Result<Self> {
        let mut head = [0; HEADER_LEN];
        cx.source.read(cx.device, FileOffset::ZERO, &mut head)?;
        if !head.starts_with(MAGIC) {
            return Err(Error::malformed("Image not in QED format"));
        }
        Self::parse(cx, &head).map_err(|error| match error.kind {
            // The oldest release has no words of its own for what is wrong.
            Kind::Malformed if cx.version == Version::V5_2 => {
                Error::malformed("Invalid argument").context(format_args!("Could not open '{}'", display_name(cx.name)))
            }
            _ => error,
        })
    }

    fn parse(cx: &OpenContext<'_, '_>, head: &[u8; HEADER_LEN]) -> Result<Self> {
        let read = Reader::new(head);
        let features = read.le64(field::FEATURES)?;
        if features & !feature::KNOWN != 0 {
            return Err(Error::unsupported(alloc::format!(
                "Unsupported QED features: {:x}",
                features & !feature::KNOWN
            )));
        }
        let cluster = u64::from(read.le32(field::CLUSTER_SIZE)?);
        if !is_cluster_size(cluster) {
            return Err(Error::malformed("QED cluster size is invalid"));
        }
        // Sectors that are there in part count.
        let len = cx.source.stat(cx.device)?.len.next_multiple_of(SECTOR);
        let table = u64::from(read.le32(field::TABLE_SIZE)?);
        if !is_table_size(table) {
            return Err(Error::malformed("QED table size is invalid"));
        }
        let size = read.le64(field::IMAGE_SIZE)?;
        if !size.is_multiple_of(SECTOR) || size > size_max(cluster, table) {
            return Err(Error::malformed("QED image size is invalid"));
        }
        let mut header = Self {
            cluster,
            table,
            header: u64::from(read.le32(field::HEADER_SIZE)?),
            features,
            l1: FileOffset::new(read.le64(field::L1_OFFSET)?),
            size,
            backing: None,
            backing_at: (FileOffset::ZERO, 0),
            file_end: FileOffset::new(len - len % cluster),
        };
        if !header.is_table(header.l1, header.file_end) {
            return Err(Error::malformed("QED table offset is invalid"));
        }
        if header.header > u64::from(u32::MAX) / cluster {
            return Err(Error::malformed("QED header size is too large"));
        }
        if features & feature::BACKING != 0 {
            let place = (read.le32(field::BACKING_OFFSET)?, read.le32(field::BACKING_LEN)?);
            header.backing_at = (FileOffset::from(place.0), u64::from(place.1));
            header.backing = header.backing_file(cx, place)?;
        }
        Ok(header)
    }

    fn backing_file(&self, cx: &OpenContext<'_, '_>, (offset, len): (u32, u32)) -> Result<Option<Backing>> {
        if u64::from(offset) + u64::from(len) > self.cluster * self.header {
            return Err(Error::malformed("QED backing filename offset is invalid"));
        }
        if len as usize > BACKING_NAME_MAX {
            return Err(Error::malformed("Failed to read backing filename"));
        }
        let mut name: Vec<u8> = vec![0; len as usize];
        cx.source.read(cx.device, FileOffset::from(offset), &mut name)?;
        name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
        let format = (self.features & feature::BACKING_RAW != 0).then(|| String::from("raw"));
        Ok(if name.is_empty() { None } else { Some(Backing { name, format }) })
    }

    /// The tables, of an image on `device`.
    pub const fn levels(&self, device: DeviceId, backed: bool) -> Levels {
        Levels {
            device,
            size: self.size,
            cluster: self.cluster,
            l1: self.table_at(self.l1),
            copy: None,
            scale: 1,
            l2_entries: self.entries(),
            big_endian: false,
            table_first: false,
            room: (self.first_cluster(), self.cluster),
            plain,
            backed,
            zero: Some(ZERO),
        }
    }

    /// Entries of a table.
    pub const fn entries(&self) -> u64 {
        self.cluster * self.table / ENTRY
    }

    /// The table at `offset`.
    pub const fn table_at(&self, offset: FileOffset) -> Span {
        Span { offset, count: self.entries() }
    }

    /// Behind the clusters of the header.
    const fn first_cluster(&self) -> FileOffset {
        FileOffset::new(self.header.saturating_mul(self.cluster))
    }

    /// Whether a cluster of data may be at `offset` of a file that ends at `end`.
    pub fn is_cluster(&self, offset: FileOffset, end: FileOffset) -> bool {
        offset.is_multiple_of(self.cluster) && offset >= self.first_cluster() && offset < end
    }

    /// Whether a table may be at `offset` of such a file.
    pub fn is_table(&self, offset: FileOffset, end: FileOffset) -> bool {
        match offset.checked_add((self.table - 1) * self.cluster) {
            // QEMU takes a table of a single cluster for one that is too long.
            Some(last) => last > offset && self.is_cluster(offset, end) && self.is_cluster(last, end),
            None => false,
        }
    }
}
