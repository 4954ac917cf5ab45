//! How the images of a chain tell of what they store, for the commands that show it.

use alloc::vec::Vec;

pub use instar_abi::ops::map::{COMPRESSED, DATA, HAS_OFFSET, PRESENT, ZERO};
use instar_image::chain::Chain;
use instar_image::quirk::{has, hides_places};
use instar_image::runs::RunMap;
use instar_image::walk::Stretch;
use instar_image::{DeviceId, Extent, FileOffset, Machine, Place, Quirk, Result, Run};

/// A range of the disk that is stored in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub start: u64,
    pub len: u64,
    pub offset: FileOffset,
    pub depth: u32,
    pub bits: u16,
    /// The device that it is on, where it has a plain place.
    pub device: u32,
}

impl Stretch for Entry {
    fn bytes(&self) -> u64 {
        self.len
    }
}

/// Tells of a chain what is stored where, range by range.
pub struct Stored<'a> {
    machine: &'a dyn Machine,
    chain: &'a Chain<'a>,
    /// Of each layer whose holes show, the runs of the files that its data may lie in.
    holes: Vec<Vec<(DeviceId, RunMap<'a>)>>,
}

impl<'a> Stored<'a> {
    /// Of a chain.
    pub fn of(machine: &'a dyn Machine, chain: &'a Chain<'a>) -> Result<Self> {
        let mut holes = Vec::new();
        for layer in &chain.layers {
            let mut runs = Vec::new();
            if layer.image.is_preallocated()? {
                for device in layer.devices() {
                    let len = machine.stat(device)?.len;
                    runs.push((device, RunMap::new(machine.source(), device, len)));
                }
            }
            holes.push(runs);
        }
        Ok(Self { machine, chain, holes })
    }

    /// Whether the format of layer `depth` has the quirk.
    fn has(&self, depth: usize, quirk: Quirk) -> bool {
        self.chain.layers.get(depth).is_some_and(|layer| has(layer.format, quirk))
    }

    /// The run at `offset` in a file of layer `depth`, where holes show.
    fn hole(&self, depth: usize, device: DeviceId, offset: FileOffset) -> Result<Option<Run>> {
        let runs = self.holes.get(depth).and_then(|files| files.iter().find(|(file, _)| *file == device));
        runs.map(|(_, runs)| runs.run(offset)).transpose()
    }

    /// The extent as the image that it lies in has it, if it does not lie in a file; and whether that one has a backing
    /// file, of which nothing is told then.
    fn through(&self, mut extent: Extent) -> Result<(Extent, bool)> {
        let mut hidden = false;
        while let Place::Data { device, offset } | Place::Zero { at: Some((device, offset)) } = extent.place {
            let Some(node) = self.machine.node(device) else { break };
            // The device is that image's disk.
            let at = offset.get();
            let left = node.layer.image.virtual_size().saturating_sub(at);
            if left == 0 {
                return Ok((Extent { place: Place::Zero { at: None }, ..extent }, false));
            }
            let inner = node.layer.extent(at, extent.len.min(left))?;
            extent = Extent { at: extent.at, ..inner };
            hidden = !node.behind.is_empty();
            if !has(node.layer.format, Quirk::StatusOfFile) {
                break;
            }
        }
        Ok((extent, hidden))
    }

    /// What lies at `at`, at most `max` bytes of it.
    pub fn entry(&self, at: u64, max: u64) -> Result<Entry> {
        if self.chain.layers.first().is_some_and(hides_places) {
            return Ok(Entry { start: at, len: max, bits: PRESENT | DATA, ..Entry::default() });
        }
        let (depth, extent) = self.chain.extent(at, max)?;
        let through = self.has(depth, Quirk::StatusOfFile);
        let (extent, hidden) = if through { self.through(extent)? } else { (extent, false) };
        let mut entry = Entry { start: at, len: extent.len, depth: depth as u32, ..Entry::default() };
        match extent.place {
            _ if self.chain.layers.get(depth).is_some_and(hides_places) => entry.bits = PRESENT | DATA,
            Place::Data { device, offset } => {
                (entry.bits, entry.offset, entry.device) = (PRESENT | DATA | HAS_OFFSET, offset, device.0);
                if let Some(run) = self.hole(depth, device, offset)? {
                    entry.len = entry.len.min(run.len);
                    entry.bits |= if run.data { 0 } else { ZERO };
                }
            }
            Place::Compressed(_) => entry.bits = PRESENT | DATA | COMPRESSED,
            Place::Encrypted { .. } => entry.bits = PRESENT | DATA,
            Place::Zero { at: Some((device, offset)) } => {
                let stored = if self.has(depth, Quirk::StoredZeroes) { DATA } else { 0 };
                (entry.bits, entry.offset, entry.device) = (PRESENT | ZERO | HAS_OFFSET | stored, offset, device.0);
            }
            Place::Zero { at: None } => entry.bits = PRESENT | ZERO,
            Place::Unallocated if hidden => {}
            Place::Unallocated => {
                entry.bits = ZERO;
                let layer = self.chain.layers.get(depth).filter(|l| at < l.image.virtual_size());
                if let Some((device, offset)) = layer.map_or(Ok(None), |l| l.image.reserved(at))? {
                    (entry.bits, entry.offset, entry.device) = (ZERO | HAS_OFFSET, offset, device.0);
                }
            }
        }
        Ok(entry)
    }
}
