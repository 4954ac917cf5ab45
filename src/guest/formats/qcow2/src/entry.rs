//! What an entry of an L2 table means.

use instar_image::damage::Damage;
use instar_image::reader::{Reader, is_zero};
use instar_image::{DeviceId, Error, FileOffset, Result};

use crate::layout::{COMPRESSED_SECTOR, OFLAG_COMPRESSED, OFLAG_COPIED, OFLAG_ZERO, SUBCLUSTERS, host_of};
use crate::map::{Hex, corrupt};

/// The numbers that the meaning depends on.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Log2 of the cluster size, 9 to 21.
    pub cluster_bits: u32,
    /// Log2 of the bytes of an entry: 3, or 4 with subclusters.
    pub entry_bits: u32,
    /// Version 2 has no zero flag.
    pub version: u32,
    /// The clusters are in a file of their own, each at its own virtual offset.
    pub external: bool,
    /// Plain clusters are encrypted.
    pub encrypted: bool,
    /// Where the clusters are.
    pub data: DeviceId,
}

impl Geometry {
    /// Bytes of a cluster.
    pub const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Log2 of the entries of an L2 table; 5 to 18.
    pub const fn table_bits(&self) -> u32 {
        self.cluster_bits.wrapping_sub(self.entry_bits)
    }

    /// Which entry of its table a cluster has.
    pub const fn index_in_table(&self, cluster: u64) -> u64 {
        cluster & (1u64 << self.table_bits()).wrapping_sub(1)
    }

    const fn subclusters(&self) -> bool {
        self.entry_bits == 4
    }

    /// Units of a cluster: what has a state of its own is the subcluster where there are any, else the cluster.
    const fn units(&self) -> u32 {
        if self.subclusters() { SUBCLUSTERS } else { 1 }
    }

    /// Log2 of the bytes of a unit.
    pub const fn unit_bits(&self) -> u32 {
        if self.subclusters() { self.cluster_bits.wrapping_sub(SUBCLUSTERS.ilog2()) } else { self.cluster_bits }
    }

    /// Bytes of a unit.
    pub const fn unit_size(&self) -> u64 {
        1 << self.unit_bits()
    }
}

/// One unit of the virtual disk.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// Number of the cluster.
    pub cluster: u64,
    /// Number of the unit in it.
    pub unit: u32,
}

impl Spot {
    /// The unit that byte `at` is in.
    pub const fn of(g: &Geometry, at: u64) -> Self {
        let inside = (at & g.cluster_size().wrapping_sub(1)) >> g.unit_bits();
        Self { cluster: at >> g.cluster_bits, unit: inside as u32 }
    }

    /// So many units further; they do not pass the end of the cluster.
    pub const fn advanced(self, g: &Geometry, units: u32) -> Self {
        let unit = self.unit.saturating_add(units);
        if unit >= g.units() {
            Self { cluster: self.cluster.saturating_add(1), unit: 0 }
        } else {
            Self { cluster: self.cluster, unit }
        }
    }
}

/// What a unit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes, at that offset.
    Data(FileOffset),
    /// Zeroes, perhaps with room reserved at that offset.
    Zero(Option<FileOffset>),
    /// Part of a compressed cluster: where it is, and how long it is at most.
    Compressed { offset: FileOffset, len: u64 },
    /// Nothing.
    Unallocated,
    /// Nothing either, in a cluster that has room for it at that offset: a subcluster among others that hold something.
    Reserved(FileOffset),
}

impl Content {
    /// What comes `bytes` further, if it is the same run.
    pub const fn advanced(self, bytes: u64) -> Self {
        match self {
            Self::Data(offset) => Self::Data(offset.saturating_add(bytes)),
            Self::Reserved(offset) => Self::Reserved(offset.saturating_add(bytes)),
            Self::Zero(Some(offset)) => Self::Zero(Some(offset.saturating_add(bytes))),
            other => other,
        }
    }
}

/// Entries of one table (and its neighbours) in memory.
pub struct Entries<'t> {
    /// The entries' bytes.
    pub reader: Reader<'t>,
    /// Which of them could not be read: zeroes stand there.
    pub damage: &'t Damage,
    /// The cluster that the first entry is of.
    pub first: u64,
    /// Where the table is in the file; for messages.
    pub table: FileOffset,
    /// What the entries' meaning depends on.
    pub geometry: &'t Geometry,
}

impl Entries<'_> {
    /// The content at `spot`, and how many units of that cluster from there on are of the same kind.
    pub fn content(&self, spot: Spot) -> Result<(Content, u32)> {
        let g = self.geometry;
        let inside = usize::try_from(spot.cluster.saturating_sub(self.first) << g.entry_bits).unwrap_or(usize::MAX);
        let entry = self.reader.be64(inside)?;
        self.damage.good_until(inside, 1 << g.entry_bits)?;
        let rest = g.units().saturating_sub(spot.unit);
        if entry & OFLAG_COMPRESSED != 0 {
            if g.external {
                return Err(self.bad(spot, "Compressed cluster entry found in image with external data file"));
            }
            return Ok((compressed(g, entry), rest));
        }
        let host = host_of(entry);
        // In a data file, offset 0 is a place like any other.
        let allocated = host != FileOffset::ZERO || (g.external && entry & OFLAG_COPIED != 0);
        if !g.subclusters() {
            let content = match (entry & OFLAG_ZERO != 0, allocated) {
                (true, _) if g.version < 3 => {
                    return Err(self.bad(spot, "Zero cluster entry found in pre-v3 image"));
                }
                (true, true) => Content::Zero(Some(self.host(spot, host)?)),
                (true, false) => Content::Zero(None),
                (false, true) => Content::Data(self.host(spot, host)?),
                (false, false) => Content::Unallocated,
            };
            return Ok((content, 1));
        }
        let bitmap = self.reader.be64(inside.saturating_add(8))?;
        let (data, zero) = (bitmap as u32, (bitmap >> 32) as u32);
        if data & (if allocated { zero } else { u32::MAX }) != 0 {
            // Two spaces: the word between them is missing in QEMU too.
            return Err(self.bad(spot, "Invalid cluster entry found "));
        }
        let from = |bits: u32| bits.unbounded_shr(spot.unit).trailing_ones().min(rest);
        let host = if allocated { Some(self.host(spot, host)?) } else { None };
        Ok(match (from(data), from(zero), host) {
            (units @ 1.., _, Some(host)) => (Content::Data(host), units),
            (_, units @ 1.., host) => (Content::Zero(host), units),
            (_, _, host) => (host.map_or(Content::Unallocated, Content::Reserved), from(!(data | zero)).max(1)),
        })
    }

    /// How many clusters from `cluster` on, to the end of its table at most, have entries of nothing but zeroes. In every
    /// kind of image that means unallocated; a large sparse disk has millions in a row.
    pub fn blank(&self, cluster: u64) -> u64 {
        const AT_ONCE: usize = 64;
        let g = self.geometry;
        let left = (1u64 << g.table_bits()).saturating_sub(g.index_in_table(cluster));
        let from = usize::try_from(cluster.saturating_sub(self.first) << g.entry_bits).unwrap_or(usize::MAX);
        let most = usize::try_from(left << g.entry_bits).unwrap_or(usize::MAX);
        let rest =
            self.damage.good_until(from, 0).unwrap_or(from).min(self.reader.len()).saturating_sub(from).min(most);
        let bytes = self.reader.bytes(from, rest).unwrap_or_default();
        let blocks = bytes.chunks(AT_ONCE).take_while(|block| is_zero(block)).count();
        let skipped = blocks.saturating_mul(AT_ONCE).min(bytes.len());
        let entries = bytes.get(skipped..).unwrap_or_default().chunks(1 << g.entry_bits);
        let single = entries.take_while(|entry| is_zero(entry)).count();
        (skipped >> g.entry_bits).saturating_add(single) as u64
    }

    /// The offset of the unit in a cluster that is at `host`, if a cluster can be there.
    fn host(&self, spot: Spot, host: FileOffset) -> Result<FileOffset> {
        let g = self.geometry;
        if !host.is_multiple_of(g.cluster_size()) {
            let text = alloc::format!("Cluster allocation offset {} unaligned", Hex(host.get()));
            return Err(self.bad(spot, &text));
        }
        // In a data file, a cluster lies where it does in the disk.
        let guest = FileOffset::new(spot.cluster << g.cluster_bits);
        let inside = u64::from(spot.unit) << g.unit_bits();
        if g.external && host != guest {
            let (host, guest) = (Hex(host.saturating_add(inside).get()), Hex(guest.saturating_add(inside).get()));
            return Err(corrupt(format_args!(
                "External data file host cluster offset {host} does not match guest cluster offset: {guest}, L2 \
                 index: {})",
                Hex(g.index_in_table(spot.cluster))
            )));
        }
        Ok(host.saturating_add(inside))
    }

    fn bad(&self, spot: Spot, what: &str) -> Error {
        let (table, index) = (Hex(self.table.get()), Hex(self.geometry.index_in_table(spot.cluster)));
        corrupt(format_args!("{what} (L2 offset: {table}, L2 index: {index})"))
    }
}

fn compressed(g: &Geometry, entry: u64) -> Content {
    let (offset, len) = compressed_range(g, entry);
    Content::Compressed { offset, len }
}

/// A compressed cluster's entry, as offset and most bytes: the offset in the lower bits, above it one less than
/// the number of sectors that the compressed bytes touch.
pub fn compressed_range(g: &Geometry, entry: u64) -> (FileOffset, u64) {
    let size_bits = g.cluster_bits.saturating_sub(8);
    let shift = 62u32.saturating_sub(size_bits);
    let offset = FileOffset::new(entry & 1u64.unbounded_shl(shift).wrapping_sub(1));
    let sectors = entry.unbounded_shr(shift) & 1u64.unbounded_shl(size_bits).wrapping_sub(1);
    let bytes = sectors.saturating_add(1).saturating_mul(COMPRESSED_SECTOR);
    (offset, bytes.saturating_sub(offset % COMPRESSED_SECTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_entries_are_counted_to_the_next_one_or_the_end_of_the_table() {
        for entry_bits in [3, 4] {
            let geometry = Geometry {
                cluster_bits: 9 + entry_bits,
                entry_bits,
                version: 3,
                external: false,
                encrypted: false,
                data: DeviceId(0),
            };
            // Two tables of 512 entries; the one that is not zero is so in its last byte only.
            for used in [1, 7, 8, 9, 63, 64, 65, 511, 512, 700, 1023] {
                let mut bytes = alloc::vec![0; 1024 << entry_bits];
                if let Some(last) = bytes.get_mut(((used + 1) << entry_bits) - 1) {
                    *last = 1;
                }
                let entries = Entries {
                    reader: Reader::new(&bytes),
                    damage: &Damage::none(),
                    first: 4096,
                    table: FileOffset::ZERO,
                    geometry: &geometry,
                };
                for cluster in [0, 1, 6, 62, 64, 510, 511, 512, 513, 1022] {
                    let end = (cluster / 512 + 1) * 512;
                    let expected = if (cluster..end).contains(&used) { used } else { end } - cluster;
                    assert_eq!(entries.blank(4096 + cluster as u64), expected as u64, "{used} {cluster}");
                }
            }
        }
    }
}
