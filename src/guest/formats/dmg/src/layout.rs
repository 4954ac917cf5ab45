//! Where things are in a UDIF image, and what its numbers mean. All numbers are big-endian.
//!
//! Source: the descriptions of UDIF by J. Levin ("Demystifying the DMG file format") and libdmg-hfsplus; Apple's "Inside
//! Macintosh: More Macintosh Toolbox" for the resource fork; QEMU where these are silent.

/// What the trailer begins with.
pub const KOLY: &[u8] = b"koly";
/// Bytes of the trailer.
pub const KOLY_LEN: u64 = 512;

/// Byte offsets of the trailer's fields (u64 each).
pub mod koly {
    /// Byte offset of the data: added to those of the chunks.
    pub const DATA: u64 = 0x18;
    /// Byte offset and length of the resource fork.
    pub const RESOURCES: u64 = 0x28;
    /// The same of the property list.
    pub const PLIST: u64 = 0xd8;
    /// Sectors of the disk.
    pub const SECTORS: u64 = 0x1ec;
}

/// What a block table begins with.
pub const MISH: &[u8] = b"mish";
/// Bytes of a block table before its entries.
pub const MISH_LEN: usize = 204;
/// Bytes of an entry.
pub const CHUNK_LEN: usize = 40;

/// Byte offsets of a block table's fields (u64 each).
pub mod mish {
    /// First sector: added to those of the chunks.
    pub const SECTOR: usize = 8;
    /// Byte offset: added to those of the chunks.
    pub const DATA: usize = 0x18;
}

/// Byte offsets of an entry's fields (u64 each but for the first).
pub mod chunk {
    /// What it is (u32).
    pub const KIND: usize = 0;
    /// First sector.
    pub const SECTOR: usize = 8;
    /// Number of sectors.
    pub const COUNT: usize = 16;
    /// Byte offset of what is stored.
    pub const OFFSET: usize = 24;
    /// Bytes that are stored.
    pub const LENGTH: usize = 32;
}

/// Kinds of chunks.
pub mod kind {
    /// Zeroes.
    pub const ZERO: u32 = 0;
    /// Plain bytes.
    pub const RAW: u32 = 1;
    /// Not in use: zeroes.
    pub const IGNORE: u32 = 2;
    /// No chunk, a remark.
    pub const COMMENT: u32 = 0x7fff_fffe;
    /// Apple Data Compression.
    pub const ADC: u32 = 0x8000_0004;
    /// A zlib stream.
    pub const ZLIB: u32 = 0x8000_0005;
    /// A bzip2 stream.
    pub const BZIP2: u32 = 0x8000_0006;
    /// An LZFSE stream.
    pub const LZFSE: u32 = 0x8000_0007;
    /// The table's end.
    pub const END: u32 = 0xffff_ffff;
}

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Most bytes that are stored of a chunk (QEMU).
pub const LENGTH_MAX: u64 = 64 << 20;
/// Most sectors of a chunk that holds something (QEMU).
pub const COUNT_MAX: u64 = LENGTH_MAX / SECTOR;
/// Most bytes of a property list (QEMU).
pub const PLIST_MAX: u64 = 16 << 20;
/// Most chunks (instar): more than the longest property list has room for, in 16 MiB of memory.
pub const CHUNKS_MAX: usize = 1 << 19;
