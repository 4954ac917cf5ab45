//! From the virtual disk to the file: the L1 table, the L2 tables.

use instar_image::pieces::Pieces;
use instar_image::{DeviceId, Error, Extent, Packed, Place, Result, Source};
use spin::Mutex;

use crate::header::Header;
use crate::layout::{COMPRESSED, SECTOR};

/// The mapping of one image.
pub struct Map<'a> {
    device: DeviceId,
    tables: Mutex<(Pieces<'a, 8>, Pieces<'a, 8>)>,
}

impl<'a> Map<'a> {
    /// Nothing is read yet.
    pub const fn new(source: &'a dyn Source, device: DeviceId) -> Self {
        Self { device, tables: Mutex::new((Pieces::new(source, device), Pieces::new(source, device))) }
    }

    /// The extent at `at`, at most `max` bytes.
    pub fn extent(&self, header: &Header, at: u64, max: u64) -> Result<Extent> {
        let left = header.size.saturating_sub(at).min(max);
        if left == 0 {
            return Err(Error::usage("read past the end of the disk"));
        }
        let (l1, l2) = &mut *self.tables.lock();
        // What is wrong with a table costs what the table is for, an entry only its cluster.
        let of_table = |e: Error| e.losing(header.reach() - at % header.reach());
        let index = at / header.reach();
        let mut tables = l1.from(header.l1, index).map_err(of_table)?.iter().map(|e| u64::from_be_bytes(*e));
        let table = tables.next().unwrap_or(0);
        if table == 0 {
            let empty = tables.take_while(|t| *t == 0).count() as u64 + 1;
            let end = index.saturating_add(empty).saturating_mul(header.reach());
            return Ok(Extent { at, len: end.saturating_sub(at).min(left), place: Place::Unallocated });
        }
        let cluster = header.cluster();
        let of_cluster = |e: Error| e.losing(cluster - at % cluster);
        let first = (at % header.reach()) / cluster;
        let mut entries =
            l2.from(header.table_at(table), first).map_err(of_cluster)?.iter().map(|e| u64::from_be_bytes(*e));
        let entry = entries.next().unwrap_or(0);
        let skip = at % cluster;
        let mut len = cluster - skip;
        if entry & COMPRESSED != 0 {
            return Ok(Extent { at, len: len.min(left), place: self.packed(header, entry, skip) });
        }
        if !entry.is_multiple_of(SECTOR) || entry > COMPRESSED - cluster {
            // What cannot be is found out when it is read, as with the stock tool: it does not decompress.
            let unreadable = Packed { device: self.device, offset: 0, len: 0, unit: cluster, skip };
            return Ok(Extent { at, len: len.min(left), place: Place::Packed(unreadable) });
        }
        let step = if entry == 0 { 0 } else { cluster };
        let mut expected = entry;
        while len < left {
            expected = expected.saturating_add(step);
            if entries.next() != Some(expected) {
                break;
            }
            len += cluster;
        }
        let (device, offset) = (self.device, entry.saturating_add(skip));
        let place = match entry {
            0 => Place::Unallocated,
            _ if header.encrypted => Place::Encrypted { device, offset },
            _ => Place::Data { device, offset },
        };
        Ok(Extent { at, len: len.min(left), place })
    }

    const fn packed(&self, header: &Header, entry: u64, skip: u64) -> Place {
        let shift = 63 - header.cluster_bits;
        Place::Packed(Packed {
            device: self.device,
            offset: entry & ((1 << shift) - 1),
            len: (entry >> shift) & (header.cluster() - 1),
            unit: header.cluster(),
            skip,
        })
    }
}
