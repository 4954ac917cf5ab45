//! How large an image becomes: the tables and counts of a whole one, and the clusters with data.

use instar_crypto::qcow::Method;
use instar_image::error::Kind;
use instar_image::{CreateContext, Error, Measure, Measured, Result};

use super::spec::{Preallocation, Spec};
use crate::layout::L1_ENTRY;

/// Bytes of a bitmap table's entry.
const TABLE_ENTRY: u64 = 8;

/// See [`instar_image::Creator::measure`].
pub fn measure(cx: &CreateContext<'_, '_>, source: Option<&dyn Measured>) -> Result<Measure> {
    // The stock tool looks at no other encryption here: only this one takes room.
    let luks = cx.options.get("encrypt.format") == Some("luks");
    let mut spec =
        Spec::read(cx, if luks { Method::Luks } else { Method::None }).map_err(|error| match error.kind {
            Kind::Limit => Error::limit("The image size is too large (try using a larger cluster size)"),
            _ => error,
        })?;
    let disk = spec.size;
    spec.size = disk.next_multiple_of(spec.cluster());
    let data = match source {
        _ if matches!(spec.preallocation, Preallocation::Full | Preallocation::Falloc) => spec.size,
        // Over a backing file, zeroes may have to be written too.
        Some(_) if spec.backing.is_some() => spec.size,
        Some(source) => source.data(spec.cluster())?,
        None => 0,
    };
    let fully_allocated = whole(&spec).saturating_add(spec.luks_clusters() << spec.cluster_bits);
    let bitmaps = source.filter(|_| spec.version > 2).and_then(|source| source.bitmaps());
    Ok(Measure {
        required: (fully_allocated - spec.size).saturating_add(data),
        fully_allocated,
        bitmaps: bitmaps.map(|bitmaps| bitmaps_size(&spec, disk, bitmaps)),
    })
}

/// The whole file, with data everywhere.
fn whole(spec: &Spec) -> u64 {
    let cluster = spec.cluster();
    let data = spec.size.next_multiple_of(cluster);
    let l2 = (data / cluster).next_multiple_of(spec.l2_entries()) * spec.l2_entry();
    let l1 = (l2 / cluster).next_multiple_of(cluster / L1_ENTRY) * L1_ENTRY;
    let counted = cluster + l2 + l1 + data;
    counted + counts(counted / cluster, cluster, spec.refcount_order)
}

/// Refcount table and blocks for so many clusters, and for themselves.
fn counts(clusters: u64, cluster: u64, order: u32) -> u64 {
    let (entries, reach) = (cluster / 8, (cluster * 8) >> order);
    let (mut blocks, mut table, mut last) = (0u64, 0u64, u64::MAX);
    loop {
        blocks = (clusters + table + blocks).div_ceil(reach);
        table = blocks.div_ceil(entries);
        let all = clusters + blocks + table;
        if all == last {
            return (blocks + table) * cluster;
        }
        last = all;
    }
}

/// Bits, tables and directory of all bitmaps.
fn bitmaps_size(spec: &Spec, disk: u64, bitmaps: &dyn instar_image::Bitmaps) -> u64 {
    let cluster = spec.cluster();
    let (mut size, mut directory) = (0u64, 0u64);
    for bitmap in bitmaps.list().iter().filter(|bitmap| !bitmap.inconsistent) {
        let bits = disk.div_ceil(1u64.unbounded_shl(u32::from(bitmap.granularity_bits)).max(1));
        let clusters = bits.div_ceil(8).div_ceil(cluster);
        size = size.saturating_add(clusters * cluster + (clusters * TABLE_ENTRY).next_multiple_of(cluster));
        directory += (24 + bitmap.name.len() as u64).next_multiple_of(8);
    }
    size.saturating_add(directory.next_multiple_of(cluster))
}
