//! The header, parsed once into checked values.

use alloc::format;

use instar_image::blocks::Blocks;
use instar_image::reader::{Reader, is_zero};
use instar_image::table::Span;
use instar_image::{DeviceId, Error, FileOffset, OpenContext, Result};

use crate::layout::{
    BLOCK, BLOCKS_MAX, ENTRY, HEADER_LEN, SECTOR, SIGNATURE, SIGNATURE_AT, SIZE_MAX, TYPE_STATIC, VERSION_1_1, field,
    is_absent,
};

/// What the header says.
#[derive(Clone, Debug)]
pub struct Header {
    /// Virtual size in bytes, in whole sectors.
    pub size: u64,
    /// The block map.
    pub map: Span,
    /// Where the first block is.
    pub data: FileOffset,
    /// All blocks were allocated when it was made.
    pub preallocated: bool,
    /// Blocks that the file has, as the header says.
    pub allocated: u32,
}

impl Header {
    /// Reads and checks it, in the order in which the stock tool does.
    pub fn read(cx: &OpenContext<'_, '_>) -> Result<Self> {
        let mut head = [0; HEADER_LEN];
        cx.source.read(cx.device, FileOffset::ZERO, &mut head)?;
        let read = Reader::new(&head);
        let said = read.le64(field::DISK_SIZE)?;
        if said > SIZE_MAX {
            return Err(Error::unsupported(format!(
                "Unsupported VDI image size (size is 0x{said:x}, max supported is 0x{SIZE_MAX:x})"
            )));
        }
        let size = said.next_multiple_of(SECTOR);
        let signature = read.le32(SIGNATURE_AT)?;
        if signature != SIGNATURE {
            return Err(Error::malformed(format!("Image not in VDI format (bad signature {signature:08x})")));
        }
        let unsupported = |what| Err(Error::unsupported(format!("unsupported VDI image ({what})")));
        let version = read.le32(field::VERSION)?;
        if version != VERSION_1_1 {
            return unsupported(format!("version {}.{}", version >> 16, version & 0xffff));
        }
        let map = read.le32(field::MAP_OFFSET)?;
        if !u64::from(map).is_multiple_of(SECTOR) {
            return unsupported(format!("unaligned block map offset 0x{map:x}"));
        }
        let data = read.le32(field::DATA_OFFSET)?;
        if !u64::from(data).is_multiple_of(SECTOR) {
            return unsupported(format!("unaligned data offset 0x{data:x}"));
        }
        let sector = read.le32(field::SECTOR_SIZE)?;
        if u64::from(sector) != SECTOR {
            return unsupported(format!("sector size {sector} is not {SECTOR}"));
        }
        let block = read.le32(field::BLOCK_SIZE)?;
        if u64::from(block) != BLOCK {
            return unsupported(format!("block size {block} is not {BLOCK}"));
        }
        let blocks = u64::from(read.le32(field::BLOCKS)?);
        let room = blocks * BLOCK;
        if size > room {
            return unsupported(format!("disk size {size}, image bitmap has room for {room}"));
        }
        if !is_zero(read.bytes(field::LINK_UUID, 16)?) {
            return unsupported("non-NULL link UUID".into());
        }
        if !is_zero(read.bytes(field::PARENT_UUID, 16)?) {
            return unsupported("non-NULL parent UUID".into());
        }
        if blocks > BLOCKS_MAX {
            return unsupported(format!("too many blocks {blocks}, max is {BLOCKS_MAX}"));
        }
        let map = Span { offset: FileOffset::from(map), count: blocks };
        // Who only looks at the image is told what it says of itself.
        if cx.purpose.wants_data() {
            map.check_written(cx.source, cx.device, ENTRY)?;
        }
        Ok(Self {
            size,
            map,
            data: FileOffset::from(data),
            preallocated: read.le32(field::TYPE)? == TYPE_STATIC,
            allocated: read.le32(field::ALLOCATED)?,
        })
    }

    /// Header, map and blocks follow one another, so that none grows into another.
    pub fn check_order(&self) -> Result<()> {
        let map_end = self.map.offset.saturating_add(self.map.count.saturating_mul(ENTRY));
        if self.map.offset >= FileOffset::new(HEADER_LEN as u64) && self.data >= map_end {
            return Ok(());
        }
        Err(Error::unsupported("the block map does not lie between header and blocks"))
    }

    /// The map, of an image on `device`.
    pub const fn blocks(&self, device: DeviceId) -> Blocks {
        Blocks {
            device,
            size: self.size,
            block: BLOCK,
            table: self.map,
            base: self.data,
            scale: BLOCK,
            absent: is_absent,
            big_endian: false,
            backed: false,
        }
    }

    /// Where block `number` of the file is.
    pub fn block_at(&self, number: u32) -> FileOffset {
        self.data + u64::from(number) * BLOCK
    }
}
