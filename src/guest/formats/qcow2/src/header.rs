//! The header, parsed once and checked wholly: what comes after trusts it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::{Error, FileOffset, Result, Version};

use crate::extensions::FeatureNames;
use crate::layout::{
    CLUSTER_BITS, FILE_OFFSET_MAX, HEADER_LENGTH_V2, HEADER_LENGTH_V3, L1_BYTES_MAX, L1_ENTRY, MAGIC,
    REFCOUNT_ORDER_MAX, REFCOUNT_ORDER_V2, REFCOUNT_TABLE_BYTES_MAX, SNAPSHOT_HEADER, SNAPSHOTS_MAX, SUBCLUSTER_MIN,
    SUBCLUSTERS, VIRTUAL_SIZE_MAX, field, incompatible,
};
use crate::window::Window;

/// Virtual sizes are counted in sectors of so many bytes; what is over is cut off.
const SECTOR: u64 = 512;

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// One zstd frame.
    Zstd,
}

/// How clusters are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// AES-CBC with the password as the key (legacy).
    Aes,
    /// LUKS.
    Luks,
}

/// A checked header. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Power of two, in [`CLUSTER_BITS`].
    pub cluster_bits: u32,
    /// Virtual size, whole sectors.
    pub size: u64,
    /// How clusters are encrypted.
    pub encryption: Encryption,
    /// Entries of the L1 table, as many as the virtual size needs or more.
    pub l1_size: u32,
    /// Where the L1 table is.
    pub l1_offset: FileOffset,
    /// Where the refcount table is, and how many clusters it has.
    pub refcount_table: (FileOffset, u32),
    /// Number of snapshots.
    pub snapshot_count: u32,
    /// Where the snapshot table is.
    pub snapshot_offset: FileOffset,
    /// Bits of [`incompatible`]; no other is set.
    pub incompatible: u64,
    /// Compatible feature bits.
    pub compatible: u64,
    /// Autoclear feature bits.
    pub autoclear: u64,
    /// Refcounts have `1 << refcount_order` bits.
    pub refcount_order: u32,
    /// Length of the header; extensions follow.
    pub length: u32,
    /// Where the extensions must end.
    pub extensions_end: FileOffset,
    /// Where the name of the backing file is, and its length; 0: there is none.
    pub backing: (FileOffset, u32),
    /// How clusters are compressed.
    pub compression: Compression,
}

impl Header {
    /// Cluster size.
    #[must_use]
    pub const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether an incompatible feature is on.
    #[must_use]
    pub const fn has(&self, feature: u64) -> bool {
        self.incompatible & feature != 0
    }

    /// Log2 of the bytes of an L2 entry.
    #[must_use]
    pub const fn l2_entry_bits(&self) -> u32 {
        if self.has(incompatible::EXTENDED_L2) { 4 } else { 3 }
    }

    /// Log2 of the bytes of the virtual disk that one L1 entry covers; at most 39.
    #[must_use]
    pub const fn l1_coverage_bits(&self) -> u32 {
        self.cluster_bits.wrapping_mul(2).wrapping_sub(self.l2_entry_bits())
    }

    /// Parses and checks.
    pub fn parse(window: &mut Window<'_>, version: Version) -> Result<Self> {
        Self::parse_with(window, version, false)
    }

    /// The same, without the checks that `check` makes and tells of itself.
    pub fn parse_to_check(window: &mut Window<'_>, version: Version) -> Result<Self> {
        Self::parse_with(window, version, true)
    }

    fn parse_with(window: &mut Window<'_>, version: Version, check: bool) -> Result<Self> {
        const FIXED: usize = 112;
        let fixed: Vec<u8> = window.bytes(FileOffset::ZERO, FIXED)?.to_vec();
        let r = Reader::new(&fixed);
        if r.array::<4>(0)? != MAGIC {
            return Err(Error::malformed("Image is not in qcow2 format"));
        }
        let v = r.be32(field::VERSION)?;
        if !(2..=3).contains(&v) {
            return Err(Error::unsupported(format!("Unsupported qcow2 version {v}")));
        }
        let cluster_bits = r.be32(field::CLUSTER_BITS)?;
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Error::malformed(format!("Unsupported cluster size: 2^{cluster_bits}")));
        }
        let cluster_size = 1u64 << cluster_bits;
        let v3 = v >= 3;
        let length = if v3 { r.be32(field::HEADER_LENGTH)? } else { HEADER_LENGTH_V2 };
        if v3 && length < HEADER_LENGTH_V3 {
            return Err(Error::malformed("qcow2 header too short"));
        }
        if u64::from(length) > cluster_size {
            return Err(Error::malformed("qcow2 header exceeds cluster size"));
        }
        let v3_u64 = |at| if v3 { r.be64(at) } else { Ok(0) };
        let place = |at| Ok::<_, Error>(FileOffset::new(r.be64(at)?));
        let (backing_offset, cluster_end) = (place(field::BACKING_OFFSET)?, FileOffset::new(cluster_size));
        if backing_offset > cluster_end {
            return Err(Error::malformed("Invalid backing file offset"));
        }
        let header = Self {
            version: v,
            cluster_bits,
            size: r.be64(field::SIZE)?,
            encryption: Encryption::None,
            l1_size: r.be32(field::L1_SIZE)?,
            l1_offset: place(field::L1_OFFSET)?,
            refcount_table: (place(field::REFCOUNT_OFFSET)?, r.be32(field::REFCOUNT_CLUSTERS)?),
            snapshot_count: r.be32(field::SNAPSHOT_COUNT)?,
            snapshot_offset: place(field::SNAPSHOT_OFFSET)?,
            incompatible: v3_u64(field::INCOMPATIBLE)?,
            compatible: v3_u64(field::COMPATIBLE)?,
            autoclear: v3_u64(field::AUTOCLEAR)?,
            refcount_order: if v3 { r.be32(field::REFCOUNT_ORDER)? } else { REFCOUNT_ORDER_V2 },
            length,
            extensions_end: if backing_offset == FileOffset::ZERO { cluster_end } else { backing_offset },
            backing: (backing_offset, r.be32(field::BACKING_SIZE)?),
            compression: Compression::Zlib,
        };
        header.checked(&r, window, version, check)
    }

    /// The checks that follow the reading of the fields, in qemu-img's order.
    fn checked(mut self, r: &Reader<'_>, window: &mut Window<'_>, version: Version, check: bool) -> Result<Self> {
        self.compression = self.compression_type(r, version)?;
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            // A table of names that cannot be read is no table: the bits are still refused.
            let names = FeatureNames::read(window, &self).unwrap_or_default();
            return Err(unsupported_features(unknown, &names));
        }
        let subcluster = self.cluster_size() / u64::from(SUBCLUSTERS);
        if self.has(incompatible::EXTENDED_L2) && subcluster < SUBCLUSTER_MIN {
            return Err(Error::malformed(format!("Unsupported subcluster size: {subcluster}")));
        }
        if self.refcount_order > REFCOUNT_ORDER_MAX {
            return Err(Error::malformed("Reference count entry width too large; may not exceed 64 bits"));
        }
        let refcount_table_end = self.check_tables(check)?;
        self.encryption = match r.be32(field::CRYPT_METHOD)? {
            0 => Encryption::None,
            1 => Encryption::Aes,
            2 => Encryption::Luks,
            other => {
                let text = format!("Unsupported encryption method {}", other.cast_signed());
                return Err(Error::unsupported(text));
            }
        };
        if refcount_table_end > FILE_OFFSET_MAX {
            return Err(Error::malformed("Could not initialize refcount handling: Input/output error"));
        }
        self.size &= !SECTOR.wrapping_sub(1);
        Ok(self)
    }

    fn compression_type(&self, r: &Reader<'_>, version: Version) -> Result<Compression> {
        let stored = field::COMPRESSION_TYPE < self.length as usize;
        let number = if stored { r.u8(field::COMPRESSION_TYPE)? } else { 0 };
        let compression = match number {
            0 => Compression::Zlib,
            1 if version > Version::V5_2 => Compression::Zstd,
            other => return Err(Error::unsupported(format!("qcow2: unknown compression type: {other}"))),
        };
        match (compression, self.has(incompatible::COMPRESSION)) {
            (Compression::Zlib, true) => {
                Err(Error::malformed("qcow2: Compression type incompatible feature bit must not be set"))
            }
            (Compression::Zstd, false) => {
                Err(Error::malformed("qcow2: Compression type incompatible feature bit must be set"))
            }
            _ => Ok(compression),
        }
    }

    /// Returns the end of the refcount table.
    fn check_tables(&self, check: bool) -> Result<FileOffset> {
        let (offset, clusters) = self.refcount_table;
        if clusters == 0 && !check {
            return Err(Error::malformed("Image does not contain a reference count table"));
        }
        let cluster = self.cluster_size();
        let table = Table { name: "Reference count table", entry: cluster, bytes_max: REFCOUNT_TABLE_BYTES_MAX };
        let refcount_table_end = table.check(offset, u64::from(clusters), cluster)?;
        if !check {
            self.check_snapshots("Snapshot table")?;
        }
        let end = l1_table("Active L1 table").check(self.l1_offset, u64::from(self.l1_size), cluster)?;
        let needed = self.l1_needed();
        if needed > i32::MAX as u64 {
            return Err(Error::limit("Image is too big"));
        }
        if u64::from(self.l1_size) < needed {
            return Err(Error::malformed("L1 table is too small"));
        }
        if self.l1_size > 0 && end > FILE_OFFSET_MAX {
            return Err(Error::malformed("Could not read L1 table: Input/output error"));
        }
        Ok(refcount_table_end)
    }

    /// Checks the place of the snapshot table, which is called that.
    pub fn check_snapshots(&self, name: &'static str) -> Result<()> {
        let entry = SNAPSHOT_HEADER as u64;
        let table = Table { name, entry, bytes_max: entry.saturating_mul(SNAPSHOTS_MAX) };
        table.check(self.snapshot_offset, u64::from(self.snapshot_count), self.cluster_size()).map(|_| ())
    }

    /// L1 entries that the virtual size needs. Sizes next to 2^64 wrap, as in QEMU, and are caught later.
    pub const fn l1_needed(&self) -> u64 {
        let coverage = 1u64 << self.l1_coverage_bits();
        self.size.wrapping_add(coverage.wrapping_sub(1)) >> self.l1_coverage_bits()
    }

    /// Whether the virtual size can be counted; said last, after all else that is wrong.
    pub fn check_size(&self) -> Result<()> {
        if self.size > VIRTUAL_SIZE_MAX {
            return Err(Error::limit("Could not refresh total sector count: File too large"));
        }
        Ok(())
    }
}

/// What a table's place is checked against.
pub struct Table {
    /// Its name in messages.
    pub name: &'static str,
    /// Bytes of an entry.
    pub entry: u64,
    /// Most bytes of the whole table.
    pub bytes_max: u64,
}

/// The table of that name with the limits of L1 tables.
pub const fn l1_table(name: &'static str) -> Table {
    Table { name, entry: L1_ENTRY, bytes_max: L1_BYTES_MAX }
}

impl Table {
    /// Bytes of so many entries, if they are not too many.
    fn bytes(&self, entries: u64) -> Option<u64> {
        entries.checked_mul(self.entry).filter(|bytes| *bytes <= self.bytes_max)
    }

    /// There are too many entries.
    pub fn is_too_large(&self, entries: u64) -> bool {
        self.bytes(entries).is_none()
    }

    /// The table's end in the file, if it is small enough and where a table can be.
    pub fn check(&self, offset: FileOffset, entries: u64, cluster_size: u64) -> Result<FileOffset> {
        let bytes = self.bytes(entries).ok_or_else(|| Error::malformed(format!("{} too large", self.name)))?;
        let end =
            offset.checked_add(bytes).filter(|e| *e <= FileOffset::END_MAX && offset.is_multiple_of(cluster_size));
        end.ok_or_else(|| Error::malformed(format!("{} offset invalid", self.name)))
    }
}

/// `Unsupported qcow2 feature(s): `, with the names that the image gives to its bits, and the rest as a number.
fn unsupported_features(mut unknown: u64, names: &FeatureNames) -> Error {
    let mut list: Vec<String> = Vec::new();
    for (mask, name) in names.incompatible() {
        if unknown & mask != 0 {
            unknown &= !mask;
            list.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    if unknown != 0 {
        list.push(format!("Unknown incompatible feature: {unknown:x}"));
    }
    Error::unsupported(format!("Unsupported qcow2 feature(s): {}", list.join(", ")))
}
