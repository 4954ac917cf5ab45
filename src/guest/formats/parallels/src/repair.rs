//! What can be put right in an image: entries of clusters that are not in the file are those of none, clusters that several
//! entries lead to get a copy each, the file ends behind the last cluster, and the header is right last.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::{CheckContext, CheckReport, DeviceId, Error, FileOffset, Machine, Repairs, Result, Step, Zeroes};

use crate::check::{self, CHECKED_MAX};
use crate::header::Header;
use crate::layout::field;

/// Entries that are changed at once.
const AT_ONCE: usize = 1 << 15;

/// What puts right what a check finds.
pub struct Mender<'m> {
    machine: &'m dyn Machine,
    device: DeviceId,
    header: &'m Header,
    what: Repairs,
    /// Entries that lead nowhere.
    outside: Vec<(u64, u32)>,
    /// A bit for each cluster that something lies in, once a place is wanted.
    used: Option<Vec<u64>>,
    /// Words of it that are full.
    full: usize,
}

impl Mender<'_> {
    /// Not only leaks.
    pub fn mends_all(&self) -> bool {
        self.what == Repairs::All
    }

    /// Entry number `index` is that of no cluster.
    pub fn forget(&mut self, index: u64) -> Result<bool> {
        if !self.mends_all() {
            return Ok(false);
        }
        self.outside.push((index, 0));
        if self.outside.len() >= AT_ONCE {
            self.settle()?;
        }
        Ok(true)
    }

    /// What was changed is in the file.
    pub fn settle(&mut self) -> Result<()> {
        if !self.outside.is_empty() {
            self.header.blocks(self.device).patch(self.machine, &self.outside)?;
            self.outside.clear();
        }
        Ok(())
    }

    /// The file ends at `end`.
    pub fn cut(&self, end: FileOffset) -> Result<bool> {
        let device = self.device;
        if self.machine.stat(device)?.block_device {
            return Ok(false);
        }
        self.machine.submit(&[Step::SetLength { device, len: end.get() }, Step::Barrier { device }]).map(|()| true)
    }

    /// Gives entry number `index` a cluster of its own, with what is in the one at `offset`. The clusters begin at `data`.
    pub fn copy(&mut self, index: u64, offset: FileOffset, data: FileOffset) -> Result<bool> {
        if !self.mends_all() {
            return Ok(false);
        }
        let (device, len) = (self.device, self.header.cluster);
        let to_offset = self.free_place(data)?;
        let zeroes = Zeroes::Copied;
        let copy = Step::Copy { from: device, from_offset: offset, to: device, to_offset, len, zeroes };
        self.machine.submit(&[copy, Step::Barrier { device }])?;
        let entry = u32::try_from(to_offset / self.header.entry_unit);
        let entry = entry.map_err(|_| Error::limit("the file gets too large"))?;
        self.header.blocks(device).patch(self.machine, &[(index, entry)])?;
        Ok(true)
    }

    /// The first place where nothing is, which is taken then.
    fn free_place(&mut self, data: FileOffset) -> Result<FileOffset> {
        let (cluster, data) = (self.header.cluster, self.header.align(data));
        let used = match &mut self.used {
            Some(used) => used,
            None => self.used.insert(self::used(self.header, self.machine, self.device, data)?),
        };
        let rest = used.get(self.full..).unwrap_or_default();
        let free = self.full + rest.iter().position(|word| *word != u64::MAX).unwrap_or(rest.len());
        self.full = free;
        if free == used.len() {
            used.push(0);
        }
        let Some(word) = used.get_mut(free) else { return Err(Error::limit("Cannot allocate memory")) };
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        Ok(data.saturating_add((free as u64 * 64 + u64::from(bit)).saturating_mul(cluster)))
    }
}

/// A bit for each cluster of the file from `data` on: whether something lies in it.
fn used(header: &Header, machine: &dyn Machine, device: DeviceId, data: FileOffset) -> Result<Vec<u64>> {
    let count = machine.stat(device)?.end().saturating_since(data).div_ceil(header.cluster);
    if count > CHECKED_MAX {
        return Err(Error::limit("Cannot allocate memory"));
    }
    let mut used = vec![0u64; count.div_ceil(64) as usize];
    header.blocks(device).each(machine.source(), |_, entry| {
        let offset = header.place(entry);
        let from = offset.saturating_since(data);
        // One that does not begin where clusters do lies in two of them.
        for number in [from / header.cluster, from.saturating_add(header.cluster - 1) / header.cluster] {
            if let Some(word) = used.get_mut((number / 64) as usize).filter(|_| entry != 0) {
                *word |= 1 << (number % 64);
            }
        }
        Ok(())
    })?;
    Ok(used)
}

/// See [`instar_image::Image::repair`].
pub fn repair(header: &Header, device: DeviceId, what: Repairs, cx: CheckContext<'_>) -> Result<CheckReport> {
    let machine = cx.machine;
    if header.extension != FileOffset::ZERO {
        // What it refers to would be taken for unused.
        return check::run(header, device, cx);
    }
    let mut mender = Mender { machine, device, header, what, outside: Vec::new(), used: None, full: 0 };
    let all = mender.mends_all();
    let right = if all { check::right_data_start(header, device, machine)? } else { None };
    let report = check::run_with(header, device, Some(&mut mender), cx)?;
    let write = |at: usize, data: &[u8]| {
        machine.submit(&[Step::Write { device, offset: FileOffset::new(at as u64), data }, Step::Barrier { device }])
    };
    if let Some(sector) = right {
        let sector = u32::try_from(sector).map_err(|_| Error::limit("the file gets too large"))?;
        write(field::DATA_OFFSET, &sector.to_le_bytes())?;
    }
    if all && header.in_use {
        write(field::IN_USE, &[0; 4])?;
    }
    Ok(report)
}
