//! Which clusters hold the image's own tables. What a damaged L2 entry says of one of them is not believed: no data is written
//! there, and it is not given up.
//!
//! The clusters are listed when the image begins to be changed; whether one of the list is still a table's is looked up only
//! where an entry refers to it, which no sound image does.

use alloc::vec::Vec;
use core::ops::Range;

use instar_image::{Error, FileOffset};

use super::State;
use super::tables::Tables;
use crate::Qcow2Image;
use crate::cluster::{self, ClusterNumber};
use crate::layout::{COMPRESSED_SECTOR, L1_ENTRY};
use crate::refcount::counts::Counts;

/// Most tables that are listed: of an image with more, only what its header names is.
const LISTED_MAX: usize = 1 << 21;

/// The clusters of an image's tables, as it begins to be changed.
pub struct Metadata {
    /// What stays where it is: header, snapshots and their L1 tables, keys.
    fixed: Vec<Range<ClusterNumber>>,
    /// Numbers of clusters that held L2 tables and refcount blocks, in ascending order.
    tables: Vec<ClusterNumber>,
}

impl Metadata {
    /// Those of an image.
    pub fn of(image: &Qcow2Image<'_>, tables: &Tables<'_>, counts: &Counts<'_>) -> Self {
        let bits = image.header.cluster_bits;
        let clusters = |offset: FileOffset, len: u64| cluster::run(offset, len, bits);
        let mut fixed = Vec::new();
        fixed.push(ClusterNumber::FIRST..ClusterNumber::new(1));
        if let Some(last) = image.snapshots.last() {
            fixed.push(clusters(image.header.snapshot_offset, last.place.end));
        }
        fixed.extend(image.snapshots.iter().map(|s| clusters(s.l1_offset, u64::from(s.l1_size) * L1_ENTRY)));
        fixed.extend(image.extensions.crypto_header.map(|(offset, len)| clusters(offset, len)));
        let mut listed = Vec::new();
        if tables.len().saturating_add(counts.block_places().count()) <= LISTED_MAX {
            let places = tables.places().chain(counts.block_places()).filter(|offset| *offset != FileOffset::ZERO);
            listed.extend(places.map(|offset| ClusterNumber::of(offset, bits)));
            listed.sort_unstable();
        }
        Self { fixed, tables: listed }
    }

    /// Whether the cluster of that number is one of the image's tables, or a part of it is.
    pub fn holds(&self, state: &State<'_>, cluster: ClusterNumber) -> bool {
        let within = |(first, count): (ClusterNumber, u64)| cluster >= first && cluster - first < count;
        self.fixed.iter().any(|range| range.contains(&cluster))
            || within(state.tables.place())
            || within(state.counts.place())
            || (self.tables.binary_search(&cluster).is_ok() && {
                let mut now = state.tables.places().chain(state.counts.block_places());
                let bits = state.counts.cluster_bits();
                now.any(|offset| offset != FileOffset::ZERO && ClusterNumber::of(offset, bits) == cluster)
            })
    }

    /// The same of what compressed bytes lie in.
    pub fn holds_any(&self, state: &State<'_>, (offset, len): (FileOffset, u64)) -> bool {
        let bits = state.counts.cluster_bits();
        // At most two clusters, and a sector more.
        let last = offset.saturating_add(len.max(1) - 1).min(offset.saturating_add((2 << bits) + COMPRESSED_SECTOR));
        let clusters = ClusterNumber::of(offset, bits)..ClusterNumber::of(last, bits).saturating_add(1);
        cluster::each(clusters).any(|cluster| self.holds(state, cluster))
    }
}

/// What is said where data would be written over a table.
pub fn in_the_way() -> Error {
    Error::corrupt("the image is corrupt: an entry of the disk refers to a cluster of the image's tables")
        .with_hint("qemu-img check tells of all that is wrong")
}
