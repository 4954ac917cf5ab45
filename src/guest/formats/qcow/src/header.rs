//! The header, parsed once into checked values.

use alloc::format;
use alloc::vec;

use instar_image::levels::Levels;
use instar_image::machine::display_name;
use instar_image::reader::Reader;
use instar_image::table::Span;
use instar_image::{Backing, DeviceId, Error, FileOffset, OpenContext, Result};

use crate::layout::{BACKING_NAME_MAX, ENTRY, HEADER_LEN, MAGIC, SECTOR, field, plain};

/// What the header says.
#[derive(Clone, Debug)]
pub struct Header {
    /// Virtual size in bytes, in whole sectors.
    pub size: u64,
    /// Bits of an offset in a cluster.
    pub cluster_bits: u32,
    /// Bits of an index in an L2 table.
    pub l2_bits: u32,
    /// The clusters that are not compressed are encrypted.
    pub encrypted: bool,
    /// The L1 table.
    pub l1: Span,
    /// The backing file.
    pub backing: Option<Backing>,
}

impl Header {
    /// Reads and checks it, in the order in which the stock tool does.
    pub fn read(cx: &OpenContext<'_, '_>) -> Result<Self> {
        let mut head = [0; HEADER_LEN];
        cx.source.read(cx.device, FileOffset::ZERO, &mut head)?;
        let read = Reader::new(&head);
        if !head.starts_with(MAGIC) {
            return Err(Error::malformed("Image not in qcow format"));
        }
        let version = read.be32(field::VERSION)?;
        if version != 1 {
            let other = if version == 2 || version == 3 { "\nTry the 'qcow2' driver instead." } else { "" };
            return Err(Error::unsupported(format!("qcow (v1) does not support qcow version {version}{other}")));
        }
        let size = read.be64(field::SIZE)?;
        if size <= 1 {
            return Err(Error::malformed("Image size is too small (must be at least 2 bytes)"));
        }
        let cluster_bits = u32::from(read.u8(field::CLUSTER_BITS)?);
        if !(9..=16).contains(&cluster_bits) {
            return Err(Error::malformed("Cluster size must be between 512 and 64k"));
        }
        let l2_bits = u32::from(read.u8(field::L2_BITS)?);
        if !(6..=13).contains(&l2_bits) {
            return Err(Error::malformed("L2 table size must be between 512 and 64k"));
        }
        let crypt = read.be32(field::CRYPT_METHOD)?;
        if crypt > 1 {
            return Err(Error::malformed("invalid encryption method in qcow header"));
        }
        let reach = 1u64 << (cluster_bits + l2_bits);
        let entries = size.checked_next_multiple_of(reach).map_or(u64::MAX, |end| end / reach);
        if entries > i32::MAX as u64 / ENTRY {
            return Err(Error::limit("Image too large"));
        }
        let l1 = Span { offset: FileOffset::new(read.be64(field::L1_OFFSET)?), count: entries };
        // The stock tool reads all of it now.
        check_range(cx, l1.offset, entries * ENTRY)?;
        Ok(Self {
            size: size - size % SECTOR,
            cluster_bits,
            l2_bits,
            encrypted: crypt != 0,
            l1,
            backing: backing(cx, FileOffset::new(read.be64(field::BACKING_OFFSET)?), read.be32(field::BACKING_LEN)?)?,
        })
    }

    /// Bytes of a cluster.
    pub const fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The tables, of an image on `device`.
    pub const fn levels(&self, device: DeviceId) -> Levels {
        Levels {
            device,
            size: self.size,
            cluster: self.cluster(),
            l1: self.l1,
            copy: None,
            scale: 1,
            l2_entries: 1 << self.l2_bits,
            big_endian: true,
            table_first: true,
            room: (FileOffset::new(HEADER_LEN as u64), SECTOR),
            plain,
            backed: self.backing.is_some(),
            zero: None,
        }
    }
}

/// Refuses what no file can hold.
fn check_range(cx: &OpenContext<'_, '_>, offset: FileOffset, len: u64) -> Result<()> {
    if offset.saturating_add(len) <= FileOffset::END_MAX {
        return Ok(());
    }
    Err(Error::malformed("Input/output error").context(format_args!("Could not open '{}'", display_name(cx.name))))
}

fn backing(cx: &OpenContext<'_, '_>, offset: FileOffset, len: u32) -> Result<Option<Backing>> {
    if offset == FileOffset::ZERO {
        return Ok(None);
    }
    if len > BACKING_NAME_MAX {
        return Err(Error::malformed("Backing file name too long"));
    }
    check_range(cx, offset, u64::from(len))?;
    let mut name = vec![0; len as usize];
    cx.source.read(cx.device, offset, &mut name)?;
    name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
    Ok(if name.is_empty() { None } else { Some(Backing { name, format: None }) })
}
