//! Copied flags: of an entry that leads to what this disk alone refers to, which is then written in place.

use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::table::Span;
use instar_image::{DeviceId, FileOffset, Machine, Result, Step};

use crate::below::Below;
use crate::check::tables::is_plain;
use crate::cluster::ClusterNumber;
use crate::entry::Geometry;
use crate::layout::{L1_ENTRY, OFLAG_COMPRESSED, OFLAG_COPIED, host_of, table_of};
use crate::window::numbers;

/// Whether a cluster has one reference; `None`: it is not known.
pub type IsSingle<'s> = &'s (dyn Fn(ClusterNumber) -> Option<bool> + Sync);

/// Sets the flags below one L1 table.
pub struct Flags<'f> {
    /// The world.
    pub machine: &'f dyn Machine,
    /// The image's device.
    pub device: DeviceId,
    /// What entries mean.
    pub geometry: &'f Geometry,
    /// By what they are set: where it is not known, they stay.
    pub is_single: IsSingle<'f>,
}

impl Flags<'_> {
    /// Sets those of the L1 table's own entries, and of those below it.
    pub fn set(&self, l1: Span) -> Result<()> {
        numbers(self.machine.source(), self.device, l1.offset, l1.count, &mut |first, entries| {
            let changed: Vec<(FileOffset, [u8; 8])> = (first..)
                .zip(entries)
                .filter_map(|(index, entry)| {
                    let right = self.right_in_l1(*entry);
                    let at = l1.offset.saturating_add(index.saturating_mul(L1_ENTRY));
                    (right != *entry).then(|| (at, right.to_be_bytes()))
                })
                .collect();
            let device = self.device;
            let steps: Vec<Step<'_>> =
                changed.iter().map(|(offset, data)| Step::Write { device, offset: *offset, data }).collect();
            self.machine.submit(&steps)
        })?;
        self.set_below(l1, &|_| true)
    }

    /// An L1 entry with the flag that it should have.
    pub fn right_in_l1(&self, entry: u64) -> u64 {
        let table = table_of(entry);
        let known = match table {
            FileOffset::ZERO => None,
            table => (self.is_single)(ClusterNumber::of(table, self.geometry.cluster_bits)),
        };
        known.map_or(entry, |single| flagged(entry, single))
    }

    /// Sets those of the entries of the L2 tables whose numbers are `wanted`.
    pub fn set_below(&self, l1: Span, wanted: &dyn Fn(u64) -> bool) -> Result<()> {
        let (machine, device, cluster_bits) = (self.machine, self.device, self.geometry.cluster_bits);
        Below { machine, device, cluster_bits, l1 }.each(wanted, &|_, _, bytes| self.set_in_table(bytes))
    }

    /// The same in the L2 table with these bytes; returns which of them are others now.
    fn set_in_table(&self, bytes: &mut [u8]) -> Result<core::ops::Range<usize>> {
        let g = self.geometry;
        let mut changed = 0..0;
        for at in (0..bytes.len()).step_by(1 << g.entry_bits) {
            let entry = Reader::new(bytes).be64(at)?;
            if entry & OFLAG_COMPRESSED != 0 || !is_plain(g, entry) {
                continue;
            }
            // A data file is one image's alone.
            let number = ClusterNumber::of(host_of(entry), g.cluster_bits);
            let single = if g.external { Some(true) } else { (self.is_single)(number) };
            let right = single.map_or(entry, |single| flagged(entry, single));
            if right != entry
                && let Some(place) = bytes.get_mut(at..at + 8)
            {
                place.copy_from_slice(&right.to_be_bytes());
                changed = if changed.is_empty() { at..at + 8 } else { changed.start..at + 8 };
            }
        }
        Ok(changed)
    }
}

const fn flagged(entry: u64, single: bool) -> u64 {
    if single { entry | OFLAG_COPIED } else { entry & !OFLAG_COPIED }
}
