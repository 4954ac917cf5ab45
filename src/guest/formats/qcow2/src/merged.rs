//! Units of the disk that lie in one place, as one extent.

use instar_image::{Compressed, DeviceId, Extent, Place, Result};

use crate::entry::{Content, Entries, Geometry, Spot};

impl Entries<'_> {
    /// The longest run from `at` on that lies in one place, as far as the entries of one table go, and at most to cluster
    /// `end`. Compressed clusters are on `device`.
    pub fn merged(&self, device: DeviceId, end: u64, at: u64, left: u64) -> Result<Extent> {
        let g = self.geometry;
        let mut spot = Spot::of(g, at);
        let (first, mut units) = self.content(spot)?;
        let skip = at & g.unit_size().wrapping_sub(1);
        let mut len = (u64::from(units) << g.unit_bits()).saturating_sub(skip);
        let place = place(g, device, first, spot, skip, at);
        let mut expected = first;
        while len < left && !matches!(first, Content::Compressed { .. }) {
            expected = expected.advanced(u64::from(units) << g.unit_bits());
            spot = spot.advanced(g, units);
            if first == Content::Unallocated && spot.unit == 0 && g.index_in_table(spot.cluster) != 0 {
                let blank = self.blank(spot.cluster);
                spot.cluster = spot.cluster.saturating_add(blank);
                len = len.saturating_add(blank << g.cluster_bits);
            }
            if spot.unit == 0 && (g.index_in_table(spot.cluster) == 0 || spot.cluster >= end) {
                break;
            }
            // A bad entry is reported when it is its turn.
            let Ok((content, more)) = self.content(spot) else { break };
            if content != expected {
                break;
            }
            units = more;
            len = len.saturating_add(u64::from(units) << g.unit_bits());
        }
        Ok(Extent { at, len: len.min(left), place })
    }
}

fn place(g: &Geometry, device: DeviceId, content: Content, spot: Spot, skip: u64, at: u64) -> Place {
    match content {
        Content::Data(offset) if g.encrypted => {
            Place::Encrypted { device: g.data, offset: offset.saturating_add(skip) }
        }
        Content::Data(offset) => Place::Data { device: g.data, offset: offset.saturating_add(skip) },
        Content::Zero(offset) => Place::Zero { at: offset.map(|o| (g.data, o.saturating_add(skip))) },
        Content::Compressed { offset, len } => Place::Compressed(Compressed {
            device,
            offset,
            len,
            unit: g.cluster_size(),
            skip: at.saturating_sub(spot.cluster << g.cluster_bits),
        }),
        Content::Unallocated | Content::Reserved(_) => Place::Unallocated,
    }
}
