//! Refcounts of another width.
//!
//! All counts are written anew, in blocks and a table behind the end of the file, where nobody looks; then one write of the
//! header, which lies in one sector, tells of them. The new counts say already that the old ones are free. Cut before that, the
//! file is longer and nothing else; cut after it, what the old counts took is free, but not yet given to the host.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use instar_image::{DeviceId, Error, FileOffset, Machine, Result, Step};

use crate::Qcow2Image;
use crate::check::CLUSTERS_MAX;
use crate::cluster::{self, ClusterNumber};
use crate::layout::{REFCOUNT_TABLE_BYTES_MAX, field};
use crate::refcount::Geometry;
use crate::refcount::counts::add_run;
use crate::refcount::sheet::{MANY, Sheet, windows};
use crate::refcount::stored::Stored;
use crate::refcount::table::{Block, ENTRY, Table};

/// Bytes of blocks that wait to be written.
const WAITING_MAX: usize = 4 << 20;

/// Gives the image refcounts of `1 << order` bits.
pub fn change(image: &mut Qcow2Image<'_>, machine: &dyn Machine, order: u32) -> Result<()> {
    let (device, header) = (image.device, &image.header);
    let stored = Stored::open(machine, device, header)?;
    let stat = machine.stat(device)?;
    let behind = ClusterNumber::behind(stat.end(), header.cluster_bits);
    let counted = stored.table.entries.iter().rposition(|entry| *entry != 0).map_or(0, |last| last as u64 + 1);
    let counted = stored.table.geometry.first(counted);
    if behind.get() > CLUSTERS_MAX {
        return Err(Error::limit("File too large"));
    }
    let blocks = (0..stored.table.entries.len() as u64).map(|number| stored.table.offset(number));
    let blocks = blocks.filter(|offset| *offset != FileOffset::ZERO);
    let (place, len) = stored.table.place;
    let mut old: Vec<ClusterNumber> = blocks.map(|offset| ClusterNumber::of(offset, header.cluster_bits)).collect();
    let of_table = cluster::each(cluster::run(place, len, header.cluster_bits));
    old.extend(of_table.filter(|cluster| *cluster != ClusterNumber::FIRST));
    old.sort_unstable();
    let new = Geometry { cluster_bits: header.cluster_bits, order };
    // The file may be shorter than what is counted: what lies behind it is free all the same.
    let width = Width { machine, stored, new, old, end: behind.max(counted).min(ClusterNumber::new(CLUSTERS_MAX)) };
    let (used, end) = width.look()?;
    let first = if stat.block_device { end } else { behind.max(end) };
    let table = width.lay_out(first, used)?;
    width.write(device, &table, first)?;
    table.write(machine, device, 0..table.entries.len())?;
    publish(machine, device, &table)?;
    let table_clusters = u32::try_from(table.place.1 >> header.cluster_bits).unwrap_or(u32::MAX);
    image.header.refcount_order = order;
    image.header.refcount_table = (table.place.0, table_clusters);
    width.give_back(device)
}

/// Has the header tell of the table and of the width of counts, and then that is stable.
fn publish(machine: &dyn Machine, device: DeviceId, table: &Table) -> Result<()> {
    let from = field::REFCOUNT_OFFSET;
    // All of it lies in one sector; what is between stays.
    let mut fields = [0; field::REFCOUNT_ORDER + 4 - field::REFCOUNT_OFFSET];
    machine.read(device, FileOffset::new(from as u64), &mut fields)?;
    let clusters = u32::try_from(table.place.1 >> table.geometry.cluster_bits).unwrap_or(u32::MAX);
    let mut put = |at: usize, value: &[u8]| {
        if let Some(place) = fields.get_mut(at - from..).and_then(|rest| rest.get_mut(..value.len())) {
            place.copy_from_slice(value);
        }
    };
    put(field::REFCOUNT_OFFSET, &table.place.0.get().to_be_bytes());
    put(field::REFCOUNT_CLUSTERS, &clusters.to_be_bytes());
    put(field::REFCOUNT_ORDER, &table.geometry.order.to_be_bytes());
    machine.submit(&[
        Step::Write { device, offset: FileOffset::new(from as u64), data: &fields },
        Step::Barrier { device },
    ])
}

struct Width<'m> {
    machine: &'m dyn Machine,
    stored: Stored<'m>,
    new: Geometry,
    /// The clusters of the old table and blocks, in order.
    old: Vec<ClusterNumber>,
    /// The cluster behind those that are looked at.
    end: ClusterNumber,
}

impl Width<'_> {
    /// Windows of whole blocks, old and new.
    fn windows(&self) -> impl Iterator<Item = Range<ClusterNumber>> + use<> {
        let (old, new) = (self.stored.table.geometry, self.new);
        windows(if old.reach() > new.reach() { old } else { new }, self.end)
    }

    /// Calls `act` with each window's clusters that are counted, and how often they will be, in order.
    fn each(&self, act: &mut dyn FnMut(ClusterNumber, u64) -> Result<()>) -> Result<()> {
        for range in self.windows() {
            let geometry = self.stored.table.geometry;
            if geometry.blocks_of(range.clone()).all(|number| self.stored.table.offset(number) == FileOffset::ZERO) {
                continue;
            }
            let sheet = Sheet::new(range.clone(), geometry.max());
            self.stored.load(&sheet)?;
            let mut own = self.old.iter().copied().peekable();
            for cluster in sheet.noted(range) {
                let mut count = match sheet.both(cluster).0 {
                    MANY => self.stored.get(cluster)?.unwrap_or(0),
                    count => u64::from(count),
                };
                while let Some(old) = own.next_if(|old| *old <= cluster) {
                    count = count.saturating_sub(u64::from(old == cluster));
                }
                if count != 0 {
                    act(cluster, count)?;
                }
            }
        }
        Ok(())
    }

    /// The new blocks that are needed, and the end of all that is counted; refuses counts that do not fit.
    fn look(&self) -> Result<(BTreeSet<u64>, ClusterNumber)> {
        let bad = (0..self.stored.table.entries.len() as u64)
            .find(|number| matches!(self.stored.table.block(*number), Block::Unaligned(_) | Block::Unreadable));
        if bad.is_some() {
            return Err(Error::corrupt("the image is corrupt: a refcount block cannot be where it is")
                .with_hint("qemu-img check -r all may repair it"));
        }
        let (mut used, mut latest, mut end) = (BTreeSet::new(), None, ClusterNumber::FIRST);
        let (max, bits) = (self.new.max(), 1u64 << self.new.order);
        self.each(&mut |cluster, count| {
            if count > max {
                let offset = cluster.offset(self.new.cluster_bits);
                return Err(Error::usage(format!(
                    "Cannot decrease refcount entry width to {bits} bits: Cluster at offset {offset:#x} has a refcount of {count}"
                )));
            }
            let (number, _) = self.new.place(cluster);
            if latest != Some(number) {
                used.insert(number);
                latest = Some(number);
            }
            end = cluster.saturating_add(1);
            Ok(())
        })?;
        Ok((used, end))
    }

    /// The new table, from cluster `first` on, and behind it the blocks.
    fn lay_out(&self, first: ClusterNumber, mut used: BTreeSet<u64>) -> Result<Table> {
        let bits = self.new.cluster_bits;
        let mut table_clusters = 1;
        // Table and blocks are counted, too: until nothing is added.
        loop {
            let end = first.saturating_add(table_clusters).saturating_add(used.len() as u64);
            let before = used.len();
            used.extend(self.new.blocks_of(first..end));
            let entries = used.last().map_or(0, |last| last + 1);
            let wanted = entries.saturating_mul(ENTRY).div_ceil(1 << bits).max(1);
            if wanted << bits > REFCOUNT_TABLE_BYTES_MAX {
                return Err(Error::limit("File too large"));
            }
            if wanted == table_clusters && used.len() == before {
                break;
            }
            table_clusters = wanted;
        }
        let len = table_clusters << bits;
        let mut table =
            Table { geometry: self.new, place: (first.offset(bits), len), entries: vec![0; (len / ENTRY) as usize] };
        for (number, index) in used.iter().zip(0..) {
            table.set(*number, (first + table_clusters + index).offset(bits));
        }
        Ok(table)
    }

    /// Writes the blocks of a table. Table and blocks begin at cluster `first`.
    fn write(&self, device: DeviceId, table: &Table, first: ClusterNumber) -> Result<()> {
        let bits = self.new.cluster_bits;
        let blocks = table.entries.iter().filter(|entry| **entry != 0).count() as u64;
        let own = first..first + (table.place.1 >> bits) + blocks;
        let mut out = Blocks { machine: self.machine, device, table, own, current: None, done: 0, waiting: Vec::new() };
        self.each(&mut |cluster, count| out.set(cluster, count))?;
        out.finish()
    }

    /// Tells the host of what the old counts took.
    fn give_back(&self, device: DeviceId) -> Result<()> {
        let bits = self.new.cluster_bits;
        let mut runs: Vec<(ClusterNumber, u64)> = Vec::new();
        let mut old = self.old.clone();
        old.dedup();
        for cluster in old {
            // What has another use, whatever it is, stays.
            if self.stored.get(cluster)?.unwrap_or(0) == 1 {
                add_run(&mut runs, cluster, 1);
            }
        }
        let steps =
            runs.iter().map(|(first, count)| Step::Discard { device, offset: first.offset(bits), len: count << bits });
        let steps: Vec<Step<'_>> = steps.chain([Step::Barrier { device }]).collect();
        self.machine.submit(&steps)
    }
}

/// The new blocks, one after the other.
struct Blocks<'b> {
    machine: &'b dyn Machine,
    device: DeviceId,
    table: &'b Table,
    /// The clusters of the table and the blocks.
    own: Range<ClusterNumber>,
    /// The block that is being filled.
    current: Option<(u64, Vec<u8>)>,
    /// Blocks of lower numbers were filled.
    done: u64,
    /// Blocks that are full: where they are, bytes.
    waiting: Vec<(FileOffset, Vec<u8>)>,
}

impl Blocks<'_> {
    /// Counts go up.
    fn set(&mut self, cluster: ClusterNumber, count: u64) -> Result<()> {
        let (number, index) = self.table.geometry.place(cluster);
        self.turn_to(number)?;
        if let Some((_, bytes)) = &mut self.current {
            self.table.geometry.set(bytes, index, count);
        }
        Ok(())
    }

    /// Ends all blocks before that one, and begins it.
    fn turn_to(&mut self, number: u64) -> Result<()> {
        if self.current.as_ref().is_some_and(|(current, _)| *current == number) {
            return Ok(());
        }
        self.end_current()?;
        self.fill_to(number)?;
        self.begin(number);
        Ok(())
    }

    fn begin(&mut self, number: u64) {
        let geometry = self.table.geometry;
        let mut bytes = vec![0; geometry.block_len()];
        let (start, end) = (geometry.first(number), geometry.first(number + 1));
        for cluster in cluster::each(self.own.start.max(start)..self.own.end.min(end)) {
            geometry.set(&mut bytes, geometry.place(cluster).1, 1);
        }
        self.current = Some((number, bytes));
        self.done = number + 1;
    }

    /// Those blocks below `number` that count nothing but table and blocks.
    fn fill_to(&mut self, number: u64) -> Result<()> {
        let own = self.table.geometry.blocks_of(self.own.clone());
        for own in own.start.max(self.done)..own.end.min(number) {
            self.begin(own);
            self.end_current()?;
        }
        Ok(())
    }

    fn end_current(&mut self) -> Result<()> {
        let Some((number, bytes)) = self.current.take() else { return Ok(()) };
        self.waiting.push((self.table.offset(number), bytes));
        if self.waiting.len().saturating_mul(self.table.geometry.block_len()) >= WAITING_MAX {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let steps: Vec<Step<'_>> = self
            .waiting
            .iter()
            .map(|(offset, data)| Step::Write { device: self.device, offset: *offset, data })
            .collect();
        self.machine.submit(&steps)?;
        self.waiting.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.end_current()?;
        self.fill_to(u64::MAX)?;
        self.write()
    }
}
