//! The chunks of all block tables, and which of them a sector is in.

use alloc::format;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::{Error, FileOffset, Result};

use crate::layout::{CHUNK_LEN, CHUNKS_MAX, COUNT_MAX, LENGTH_MAX, MISH, MISH_LEN, chunk, kind, mish};

/// Some sectors of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// See [`kind`].
    pub kind: u32,
    /// Bytes that are stored.
    pub length: u32,
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub count: u64,
    /// Where it is in the file.
    pub offset: FileOffset,
}

/// What is known of an image's chunks.
#[derive(Debug, Default)]
pub struct Chunks {
    /// They, as stored or (see [`Chunks::sort`]) ascending.
    list: Vec<Chunk>,
    /// The first kind that was not known.
    pub unknown: Option<u32>,
}

/// Takes a block table's bytes as they come.
pub struct Table<'c> {
    chunks: &'c mut Chunks,
    /// Added to each chunk's offset.
    data: u64,
    /// Added to each chunk's first sector.
    sector: u64,
    adc: bool,
    held: Vec<u8>,
    state: State,
}

enum State {
    Header,
    Entries,
    /// Something else: not looked at.
    Other,
}

impl<'c> Table<'c> {
    /// Its chunks are added to `chunks`; `data` to their offsets. `adc`: such chunks are known.
    pub fn new(chunks: &'c mut Chunks, data: u64, adc: bool) -> Self {
        Self { chunks, data, sector: 0, adc, held: Vec::with_capacity(MISH_LEN), state: State::Header }
    }

    /// The next byte.
    pub fn push(&mut self, byte: u8) -> Result<()> {
        if matches!(self.state, State::Other) {
            return Ok(());
        }
        self.held.push(byte);
        match self.state {
            State::Header if self.held.len() == MISH_LEN => {
                let read = Reader::new(&self.held);
                self.state = if self.held.starts_with(MISH) { State::Entries } else { State::Other };
                self.sector = read.be64(mish::SECTOR)?;
                self.data = self.data.wrapping_add(read.be64(mish::DATA)?);
                self.held.clear();
            }
            State::Entries if self.held.len() == CHUNK_LEN => {
                self.entry()?;
                self.held.clear();
            }
            _ => {}
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<()> {
        let read = Reader::new(&self.held);
        let kind = read.be32(chunk::KIND)?;
        match kind {
            kind::ZERO | kind::RAW | kind::IGNORE | kind::ZLIB | kind::BZIP2 | kind::LZFSE => {}
            kind::ADC if self.adc => {}
            kind::COMMENT | kind::END => return Ok(()),
            other => {
                self.chunks.unknown.get_or_insert(other);
                return Ok(());
            }
        }
        let number = self.chunks.list.len();
        let invalid = |what: &str| Error::malformed("Invalid argument").after(what);
        let count = read.be64(chunk::COUNT)?;
        if !matches!(kind, kind::ZERO | kind::IGNORE) && count > COUNT_MAX {
            let what = format!("sector count {count} for chunk {number} is larger than max ({COUNT_MAX})");
            return Err(invalid(&what));
        }
        let length = read.be64(chunk::LENGTH)?;
        if length > LENGTH_MAX {
            let what = format!("length {length} for chunk {number} is larger than max ({LENGTH_MAX})");
            return Err(invalid(&what));
        }
        if number >= CHUNKS_MAX {
            return Err(Error::limit(format!("the image has more than {CHUNKS_MAX} chunks")));
        }
        self.chunks.list.push(Chunk {
            kind,
            length: length as u32,
            sector: self.sector.wrapping_add(read.be64(chunk::SECTOR)?),
            count,
            offset: FileOffset::new(self.data.wrapping_add(read.be64(chunk::OFFSET)?)),
        });
        Ok(())
    }
}

/// What a sector is in.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// That chunk.
    In(Chunk),
    /// No chunk.
    Nowhere,
}

impl Chunk {
    /// It has to be decompressed.
    pub const fn is_compressed(&self) -> bool {
        matches!(self.kind, kind::ADC | kind::ZLIB | kind::BZIP2 | kind::LZFSE)
    }
}

impl Chunks {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.list.iter()
    }

    /// Brings them in order: not all programs that make images write them so.
    pub fn sort(&mut self) {
        self.list.sort_by_key(|c| c.sector);
    }

    /// The chunk that `sector` is in, as a search by halves finds it.
    pub fn find(&self, sector: u64) -> Found {
        let (mut low, mut high) = (0, self.list.len());
        while low < high {
            let middle = low.midpoint(high);
            let Some(chunk) = self.list.get(middle) else { break };
            if chunk.sector > sector {
                high = middle;
            } else if chunk.sector.wrapping_add(chunk.count) > sector {
                return Found::In(*chunk);
            } else {
                low = middle + 1;
            }
        }
        Found::Nowhere
    }
}
