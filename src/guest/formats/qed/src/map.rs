//! From the virtual disk to the file: the L1 table, the L2 tables.

use instar_image::pieces::Pieces;
use instar_image::{DeviceId, Error, Extent, Place, Result, Source};
use spin::Mutex;

use crate::header::Header;
use crate::layout::{UNALLOCATED, ZERO};

/// The mapping of one image.
pub struct Map<'a> {
    device: DeviceId,
    tables: Mutex<(Pieces<'a, 8>, Pieces<'a, 8>)>,
}

impl<'a> Map<'a> {
    /// Nothing is read yet.
    pub fn new(source: &'a dyn Source, device: DeviceId) -> Self {
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
        let mut found =
            l1.from(header.table_at(header.l1), index).map_err(of_table)?.iter().map(|e| u64::from_le_bytes(*e));
        let table = found.next().unwrap_or(UNALLOCATED);
        if table == UNALLOCATED {
            let tables = found.take_while(|t| *t == UNALLOCATED).count() as u64 + 1;
            let end = index.saturating_add(tables).saturating_mul(header.reach());
            return Ok(Extent { at, len: end.saturating_sub(at).min(left), place: Place::Unallocated });
        }
        if !header.is_table(table) {
            return Err(of_table(invalid()));
        }
        let of_cluster = |e: Error| e.losing(header.cluster - at % header.cluster);
        let cluster = (at % header.reach()) / header.cluster;
        let mut entries =
            l2.from(header.table_at(table), cluster).map_err(of_cluster)?.iter().map(|e| u64::from_le_bytes(*e));
        let entry = entries.next().unwrap_or(UNALLOCATED);
        let skip = at % header.cluster;
        let step = match entry {
            UNALLOCATED | ZERO => 0,
            _ if !header.is_cluster(entry) => return Err(of_cluster(invalid())),
            _ => header.cluster,
        };
        let mut next = entry;
        let mut len = header.cluster - skip;
        while len < left {
            next = next.saturating_add(step);
            // As with the stock tool only the first cluster of a run has to lie in the file.
            if entries.next() != Some(next) {
                break;
            }
            len = len.saturating_add(header.cluster);
        }
        let place = match entry {
            UNALLOCATED => Place::Unallocated,
            ZERO => Place::Zero { at: None },
            _ => Place::Data { device: self.device, offset: entry.saturating_add(skip) },
        };
        Ok(Extent { at, len: len.min(left), place })
    }
}

/// What the stock tool says of an offset that cannot be.
fn invalid() -> Error {
    Error::malformed("Invalid argument")
}
