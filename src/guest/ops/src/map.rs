//! `map`: where every byte of the disk is, through the whole chain.

use alloc::format;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::machine::STREAM_MAX;
use instar_image::{DeviceId, Error, Machine, Mapping, Place, Result, Value, Version};

use crate::open::{ImageSpec, Opening, combine};
use crate::stored::Stored;

/// Bytes of a record: start, length, offset (8 each), depth (4), bits (2), number of the file (2),
/// all little-endian.
const RECORD: usize = 32;
/// Records that are handed over at once.
const BATCH: usize = STREAM_MAX / RECORD;

/// It is in a layer of the chain.
const PRESENT: u32 = 1;
/// It reads as zeroes.
const ZERO: u32 = 1 << 1;
/// It is stored.
const DATA: u32 = 1 << 2;
/// Stored compressed.
const COMPRESSED: u32 = 1 << 3;
/// It has a plain place in a file.
const HAS_OFFSET: u32 = 1 << 4;

/// Where in the bits the number of the file is.
const FILE_SHIFT: u32 = 16;
/// Most files that a record can name.
const FILES_MAX: u32 = 1 << 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    start: u64,
    len: u64,
    offset: u64,
    depth: u32,
    bits: u32,
    /// The device that it is on, where it has a plain place.
    device: u32,
}

impl Entry {
    /// Whether `next` goes on where this one ends. `told`: the bits that the release tells.
    const fn takes(&self, next: &Self, told: u32) -> bool {
        (self.bits ^ next.bits) & told == 0
            && self.depth == next.depth
            && self.device == next.device
            && (self.bits & HAS_OFFSET == 0 || self.offset.wrapping_add(self.len) == next.offset)
    }
}

/// Maps; exit status 0.
pub fn run(machine: &dyn Machine, params: &Value, version: Version) -> Result<u8> {
    let image = params.get("image").ok_or_else(|| Error::usage("map without an image"))?;
    let image = ImageSpec::from_value(image)?;
    let chain = Opening { machine, version, data: true }.chain(&image)?;
    machine.seal()?;
    let files = files(&chain);
    // The first piece: the files' names, with a NUL between two.
    let names: Vec<&[u8]> = files.iter().map(|(_, name)| name.as_slice()).collect();
    machine.stream(names.join(&0).get(..STREAM_MAX).unwrap_or(&names.join(&0)))?;
    let size = chain.virtual_size();
    let start = params.u64("start").unwrap_or(0);
    let end = params.u64("length").map_or(size, |len| start.saturating_add(len)).min(size);
    let mut walk = Walk { machine, chain: &chain, files, stored: Stored::of(machine, &chain)?, batch: Vec::new() };
    let told = if version == Version::V5_2 { !PRESENT } else { !0 };
    let mut current = Entry { start, ..Entry::default() };
    let mut at = start;
    while at < end {
        let next = walk.entry(at, end - at)?;
        at = at.saturating_add(next.len);
        if current.len > 0 && current.takes(&next, told) {
            current.len = current.len.saturating_add(next.len);
            continue;
        }
        if current.len > 0 {
            walk.push(&current)?;
        }
        current = next;
    }
    // The last one is handed over even where there is none: the stock tool shows it.
    walk.push(&current)?;
    walk.flush()?;
    Ok(0)
}

/// The files of the chain: first those of the images, then what those have besides.
fn files(chain: &Chain<'_>) -> Vec<(DeviceId, Vec<u8>)> {
    let own = chain.layers.iter().map(|layer| (layer.device, layer.name.clone()));
    let others = chain.layers.iter().flat_map(|layer| {
        let named = layer.image.data_files().into_iter();
        named.map(|(device, name)| (device, combine(&layer.name, &name)))
    });
    own.chain(others).collect()
}

struct Walk<'a> {
    machine: &'a dyn Machine,
    chain: &'a Chain<'a>,
    /// That data may lie in, and their names.
    files: Vec<(DeviceId, Vec<u8>)>,
    stored: Stored<'a>,
    batch: Vec<u8>,
}

impl Walk<'_> {
    fn entry(&self, at: u64, max: u64) -> Result<Entry> {
        if self.chain.layers.first().is_some_and(|l| l.image.hides_places()) {
            return Ok(Entry { start: at, len: max, bits: PRESENT | DATA, ..Entry::default() });
        }
        let (depth, extent) = self
            .chain
            .extent(at, max)
            .map_err(|e| e.context(format!("Failed to read image metadata at offset {at}")))?;
        if extent.len == 0 {
            return Err(Error::corrupt("an extent without a byte"));
        }
        let mut entry = Entry { start: at, len: extent.len, depth: depth as u32, ..Entry::default() };
        let mapping = self.stored.mapping(depth);
        match extent.place {
            _ if self.chain.layers.get(depth).is_some_and(|l| l.image.hides_places()) => entry.bits = PRESENT | DATA,
            Place::Data { device, offset } => {
                (entry.bits, entry.offset, entry.device) = (PRESENT | DATA | HAS_OFFSET, offset, device.0);
                if let Some(run) = self.stored.hole(depth, offset)? {
                    entry.len = entry.len.min(run.len);
                    entry.bits |= if run.data { 0 } else { ZERO };
                }
            }
            Place::Packed(_) => entry.bits = PRESENT | DATA | COMPRESSED,
            Place::Encrypted { .. } => entry.bits = PRESENT | DATA,
            Place::Zero { at: Some((device, offset)) } => {
                let stored = if mapping == Mapping::Reserved { DATA } else { 0 };
                (entry.bits, entry.offset, entry.device) = (PRESENT | ZERO | HAS_OFFSET | stored, offset, device.0);
            }
            Place::Zero { at: None } => entry.bits = PRESENT | ZERO,
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

    fn push(&mut self, entry: &Entry) -> Result<()> {
        for number in [entry.start, entry.len, entry.offset] {
            self.batch.extend_from_slice(&number.to_le_bytes());
        }
        self.batch.extend_from_slice(&entry.depth.to_le_bytes());
        let file = self.files.iter().position(|(device, _)| device.0 == entry.device).unwrap_or_default();
        let file = u32::try_from(file).unwrap_or_default().min(FILES_MAX - 1);
        self.batch.extend_from_slice(&(entry.bits | file << FILE_SHIFT).to_le_bytes());
        if self.batch.len() >= BATCH * RECORD { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = core::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.machine.stream(&batch) }
    }
}
