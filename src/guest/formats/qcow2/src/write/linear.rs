//! The writer whose clusters are all in place from the start: byte `n` of the disk is byte `base + n` of the file
//! (preallocation), or byte `n` of the raw data file.

use alloc::vec::Vec;

use instar_image::write::{Piece, Placed, Target, Writer};
use instar_image::{DeviceId, Error, Result, Step};

use super::header::{self, Tables};
use super::refcounts::Refcounts;
use super::spec::Preallocation;
use super::{NewImage, l1_bytes, l1_entry};
use crate::layout::{OFLAG_COPIED, SUBCLUSTERS};

/// L2 tables written at once.
const TABLES_AT_ONCE: u64 = 16;
/// Clusters counted at once before full refcount blocks are written.
const CLUSTERS_AT_ONCE: u64 = 1 << 16;

/// See the module.
pub struct Linear<'a> {
    image: NewImage<'a>,
    /// Byte offset of the L1 table, of the first L2 table, and of the disk's first cluster.
    l1: u64,
    l2: u64,
    base: u64,
}

impl<'a> Linear<'a> {
    /// Lays the file out and reserves its clusters.
    pub fn new(image: NewImage<'a>) -> Result<Self> {
        let spec = &image.spec;
        let cluster = spec.cluster();
        header::encode(spec, Tables::default())?;
        let l1 = cluster;
        let l2 = l1 + l1_bytes(spec).next_multiple_of(cluster);
        let base = if image.data.is_some() { 0 } else { l2 + spec.l1_entries * cluster };
        let (device, len) = match image.data {
            Some(device) => (device, spec.size),
            None => (image.device, base + spec.size.next_multiple_of(cluster)),
        };
        image.machine.submit(&[Step::SetLength { device, len }])?;
        let full = spec.preallocation == Preallocation::Full;
        if full || spec.preallocation == Preallocation::Falloc {
            image.machine.submit(&[Step::Allocate { device, offset: base, len: len - base, full }])?;
        }
        Ok(Self { image, l1, l2, base })
    }

    fn tables(&self) -> Result<()> {
        let NewImage { machine, device, ref spec, .. } = self.image;
        let (cluster, entries) = (spec.cluster(), spec.l2_entries());
        let clusters = spec.size.div_ceil(cluster);
        let bitmap: u64 = (1 << SUBCLUSTERS) - 1;
        let mut table = 0;
        while table < spec.l1_entries {
            let count = TABLES_AT_ONCE.min(spec.l1_entries - table);
            let mut bytes = Vec::with_capacity((count * cluster) as usize);
            for index in table * entries..(table + count) * entries {
                let entry = if index < clusters { (self.base + index * cluster) | OFLAG_COPIED } else { 0 };
                bytes.extend_from_slice(&entry.to_be_bytes());
                if spec.extended_l2 {
                    bytes.extend_from_slice(&(if index < clusters { bitmap } else { 0 }).to_be_bytes());
                }
            }
            machine.submit(&[Step::Write { device, offset: self.l2 + table * cluster, data: &bytes }])?;
            table += count;
        }
        let l1: Vec<u8> = (0..spec.l1_entries).flat_map(|i| l1_entry(self.l2 + i * cluster).to_be_bytes()).collect();
        machine.submit(&[Step::Write { device, offset: self.l1, data: &l1 }])
    }
}

impl Writer for Linear<'_> {
    fn target(&self) -> Target {
        let device: DeviceId = self.image.data.unwrap_or(self.image.device);
        Target::Linear { device, base: self.base, zeroed: true }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the clusters of a preallocated image have their places"))
    }

    fn finish(&self) -> Result<()> {
        let NewImage { machine, device, data, ref spec } = self.image;
        self.tables()?;
        let end = match data {
            Some(_) => self.l2 + spec.l1_entries * spec.cluster(),
            None => self.base + spec.size.next_multiple_of(spec.cluster()),
        };
        let mut refcounts = Refcounts::new(device, spec);
        let mut left = end >> spec.cluster_bits;
        let mut steps = Vec::new();
        while left > 0 {
            let count = left.min(CLUSTERS_AT_ONCE);
            refcounts.allocate(count)?;
            left -= count;
        }
        let (offset, clusters) = refcounts.finish(&mut steps)?;
        machine.submit(&[Step::SetLength { device, len: refcounts.end() }])?;
        let plain: Vec<Step<'_>> = steps.iter().map(Placed::as_step).collect();
        machine.submit(&plain)?;
        if let Some(device) = data {
            machine.submit(&[Step::Barrier { device }])?;
        }
        let tables = Tables { l1: self.l1, refcounts: offset, refcount_clusters: clusters };
        let head = header::encode(spec, tables)?;
        machine.submit(&[
            Step::Barrier { device },
            Step::Write { device, offset: 0, data: &head },
            Step::Barrier { device },
        ])
    }
}
