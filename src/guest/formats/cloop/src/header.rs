//! The header and the table of blocks, checked when the image is opened.

use alloc::format;

use instar_image::reader::Reader;
use instar_image::table::{Span, TableCache};
use instar_image::{Error, FileOffset, OpenContext, Result};

use crate::layout::{BLOCK_MAX, BLOCKS_MAX, ENTRY, HEADER_AT, HEADER_LEN, SECTOR, STORED_MAX, TABLE_MAX};

/// What the header says.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Bytes of a block.
    pub block: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// The table: where each block begins, and where the last one ends.
    pub table: Span,
}

/// Where a block begins, as the table has it.
pub const fn offset(entry: [u8; 8]) -> FileOffset {
    FileOffset::new(u64::from_be_bytes(entry))
}

impl Header {
    /// Reads and checks it, in the order in which the stock tool does; the table comes after it.
    pub fn read(cx: &OpenContext<'_, '_>) -> Result<Self> {
        let mut head = [0; HEADER_LEN];
        cx.source.read(cx.device, HEADER_AT, &mut head)?;
        let read = Reader::new(&head);
        let block = read.be32(0)?;
        if block == 0 {
            return Err(Error::malformed("block_size cannot be zero"));
        }
        if !u64::from(block).is_multiple_of(SECTOR) {
            return Err(Error::malformed(format!("block_size {block} must be a multiple of 512")));
        }
        if block > BLOCK_MAX {
            return Err(Error::limit(format!("block_size {block} must be 64 MB or less")));
        }
        let blocks = read.be32(4)?;
        if blocks > BLOCKS_MAX {
            return Err(Error::limit(format!("n_blocks {blocks} must be {BLOCKS_MAX} or less")));
        }
        // Counted in 32 bits: of the largest number, nothing is left.
        let bytes = (blocks + 1).wrapping_mul(ENTRY as u32);
        if bytes == 0 {
            return Err(Error::limit("Could not allocate offsets table"));
        }
        if bytes > TABLE_MAX {
            return Err(Error::limit("image requires too many offsets, try increasing block size"));
        }
        let table = Span { offset: HEADER_AT + HEADER_LEN as u64, count: u64::from(blocks) + 1 };
        Ok(Self { block: u64::from(block), blocks: u64::from(blocks), table })
    }

    /// Virtual size in bytes.
    pub const fn size(&self) -> u64 {
        self.block * self.blocks
    }

    /// Fails where blocks are not one behind another, or longer than a block can be.
    pub fn check_table(&self, cx: &OpenContext<'_, '_>) -> Result<()> {
        let mut pieces = TableCache::<8>::new(cx.source, cx.device);
        let end = cx.source.stat(cx.device)?.end();
        // Behind the end of the file all entries are zero: the first of them tells.
        let stored = end.saturating_since(self.table.offset).div_ceil(ENTRY).saturating_add(1).min(self.table.count);
        let (mut index, mut before) = (0, FileOffset::ZERO);
        while index < stored {
            let entries = pieces.from(self.table, index)?;
            for entry in entries.iter().take((stored - index) as usize) {
                let at = offset(*entry);
                if index > 0 && at < before {
                    let text = format!("offsets not monotonically increasing at index {index}, image file is corrupt");
                    return Err(Error::corrupt(text));
                }
                if index > 0 && at - before > STORED_MAX {
                    let text = format!("invalid compressed block size at index {index}, image file is corrupt");
                    return Err(Error::corrupt(text));
                }
                (index, before) = (index + 1, at);
            }
        }
        Ok(())
    }
}
