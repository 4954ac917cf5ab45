//! `map`: where every byte of the disk is, through the whole chain.

use alloc::format;
use alloc::vec::Vec;

use instar_abi::ops::map::{Map, MapRecord};
use instar_image::chain::Chain;
use instar_image::machine::STREAM_MAX;
use instar_image::walk::walk;
use instar_image::{DeviceId, Error, Kind, Machine, Result, Version};

use crate::copy::losses::words;
use crate::nested::devices;
use crate::open::{ImageSpec, Opening, emit_warnings};
use crate::stored::{Entry, HAS_OFFSET, PRESENT, Stored};

/// Bytes of records that are handed over at once.
const BATCH: usize = STREAM_MAX / MapRecord::LEN * MapRecord::LEN;

impl Entry {
    /// Whether `next` goes on where this one ends. `told`: the bits that the release tells.
    const fn takes(&self, next: &Self, told: u16) -> bool {
        (self.bits ^ next.bits) & told == 0
            && self.depth == next.depth
            && self.device == next.device
            && (self.bits & HAS_OFFSET == 0 || self.offset.get().wrapping_add(self.len) == next.offset.get())
    }
}

/// Maps; exit status 0.
pub fn run(machine: &dyn Machine, params: &Map, version: Version) -> Result<u8> {
    let chain = Opening { machine, version }.to_read(&ImageSpec::of(&params.image))?;
    machine.seal()?;
    emit_warnings(machine, core::slice::from_ref(&chain))?;
    let files = files(machine, &chain);
    // The first piece: the files' names, with a NUL between two.
    let names: Vec<&[u8]> = files.iter().map(|(_, name)| name.as_slice()).collect();
    machine.stream(names.join(&0).get(..STREAM_MAX).unwrap_or(&names.join(&0)))?;
    let size = chain.virtual_size();
    let start = params.start;
    let end = params.length.map_or(size, |len| start.saturating_add(len)).min(size);
    let stored = Stored::of(machine, &chain)?;
    let mut records = Records { machine, files, batch: Vec::new() };
    let told = if version == Version::V5_2 { !PRESENT } else { !0 };
    let mut current = Entry { start, ..Entry::default() };
    for next in walk(start..end, |at, max| stored.entry(at, max)) {
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                // What is complete is shown.
                records.flush()?;
                return Err(unreadable(machine, error));
            }
        };
        if current.len > 0 && current.takes(&next, told) {
            current.len = current.len.saturating_add(next.len);
            continue;
        }
        if current.len > 0 {
            records.push(&current)?;
        }
        current = next;
    }
    // The last one is handed over even where there is none: the stock tool shows it.
    records.push(&current)?;
    records.flush()?;
    Ok(0)
}

/// What is wrong with a table stands on a line of its own.
fn unreadable(machine: &dyn Machine, error: Error) -> Error {
    let why = Error::new(error.kind, words(&error)).context("Could not read file metadata");
    let told = if error.kind == Kind::Corrupt { machine.say(&format!("{}\n", error.message)) } else { Ok(()) };
    told.err().unwrap_or(why)
}

/// The files of the chain: first those of the images, then what those have besides.
fn files(machine: &dyn Machine, chain: &Chain<'_>) -> Vec<(DeviceId, Vec<u8>)> {
    let own = chain.layers.iter().flat_map(|layer| devices(machine, layer.device, &layer.name));
    let others = chain.layers.iter().flat_map(|layer| layer.image.data_files());
    own.chain(others).collect()
}

/// On their way to the host.
struct Records<'a> {
    machine: &'a dyn Machine,
    /// That data may lie in, and their names.
    files: Vec<(DeviceId, Vec<u8>)>,
    batch: Vec<u8>,
}

impl Records<'_> {
    fn push(&mut self, entry: &Entry) -> Result<()> {
        let file = self.files.iter().position(|(device, _)| device.0 == entry.device).unwrap_or_default();
        let file = u16::try_from(file).unwrap_or(u16::MAX);
        let Entry { start, len, depth, bits, .. } = *entry;
        let offset = entry.offset.get();
        self.batch.extend_from_slice(&MapRecord { start, len, offset, depth, bits, file }.to_bytes());
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = core::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.machine.stream(&batch) }
    }
}
