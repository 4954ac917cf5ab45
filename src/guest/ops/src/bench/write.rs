//! Writes. The first one into a unit of the image finds a place for all of it, with what the disk showed there before;
//! the place is the image's alone then, and further ones go straight to it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::machine::display_name;
use instar_image::write::{Piece, Placed, Target};
use instar_image::{DeviceId, EditContext, Editor, Error, Kind, Machine, Result, Step};
use spin::Mutex;

use super::{ROOM, failed};
use crate::copy::fill::read_at;
use crate::open::{ImageSpec, Opening};

/// Most units whose places are remembered: some 40 bytes each.
const PLACES_MAX: usize = 1 << 19;
/// The number of the system's "Cannot allocate memory".
const ENOMEM: u32 = 12;

/// Where bytes of a disk are: a device, the offset of the first one, how many.
type Place = (DeviceId, u64, u64);

/// An image that is being written to by all workers.
pub struct Writing<'a> {
    machine: &'a dyn Machine,
    chain: &'a Chain<'a>,
    editor: Box<dyn Editor + 'a>,
    /// Length of a request in bytes.
    len: u64,
    /// As much as is written at once, all of one value.
    bytes: Vec<u8>,
    /// Where the parts of units lie that were placed in this run, by the first byte of each.
    places: Mutex<BTreeMap<u64, Place>>,
}

impl<'a> Writing<'a> {
    /// Opens the chain's first image to be changed.
    pub fn open(opening: Opening<'a>, image: &ImageSpec, chain: &'a Chain<'a>, pattern: u8, len: u64) -> Result<Self> {
        let Opening { machine, version, .. } = opening;
        let top = chain.layers.first().ok_or_else(|| Error::corrupt("a chain without an image"))?;
        let editing = top.format.editing().ok_or_else(|| {
            let error = Error::unsupported(format!("Could not open '{}'", display_name(&image.written)));
            error.with_hint(format!("images of the format {} cannot be changed in place", top.format.name()))
        })?;
        let cx = EditContext {
            machine,
            device: image.device,
            name: &image.name,
            version,
            changes_content: true,
            keeps_identity: false,
            backing: None,
            compressed: false,
            options: &image.options_at(0),
        };
        let editor = editing.edit(cx).map_err(|error| image.could_not_open(error))?;
        let bytes = vec![pattern; len.min(ROOM) as usize];
        Ok(Self { machine, chain, editor, len, bytes, places: Mutex::default() })
    }

    /// Carries out the requests that begin there.
    pub fn write(&self, starts: &[u64]) -> Result<()> {
        let mut steps = Vec::new();
        for start in starts {
            self.steps(*start, &mut steps).map_err(|error| failed(&error))?;
        }
        // What is longer than the room does not cross at once.
        let mut rest = &steps[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|step| {
                bytes += if let Step::Write { data, .. } = step { data.len() as u64 } else { 0 };
                bytes <= ROOM
            });
            let (now, later) = rest.split_at(fits.count().clamp(1, rest.len()));
            self.machine.submit(now).map_err(|error| failed(&error))?;
            rest = later;
        }
        Ok(())
    }

    /// What writes one request; units that it is the first to touch are placed.
    fn steps<'s>(&'s self, start: u64, steps: &mut Vec<Step<'s>>) -> Result<()> {
        let end = start.saturating_add(self.len);
        let mut at = start;
        while at < end {
            let (device, offset, most) = match self.editor.target() {
                Target::Linear { device, base, .. } => (device, base.saturating_add(at), end - at),
                Target::Allocated { unit, .. } => self.place_of(at, unit)?,
            };
            let len = most.min(end - at).min(self.bytes.len() as u64);
            let data = self.bytes.get(..len as usize).filter(|data| !data.is_empty());
            let data = data.ok_or_else(|| Error::corrupt("a place without a byte"))?;
            steps.push(Step::Write { device, offset, data });
            at += len;
        }
        Ok(())
    }

    /// Where byte `at` lies, which is the image's own, and how many bytes follow it there.
    fn place_of(&self, at: u64, unit: u64) -> Result<Place> {
        let mut places = self.places.lock();
        if let Some(place) = find(&places, at) {
            return Ok(place);
        }
        if places.len() >= PLACES_MAX {
            return Err(Error::new(Kind::Io(ENOMEM), "Cannot allocate memory"));
        }
        let start = at - at % unit;
        let len = unit.min(self.editor.virtual_size().saturating_sub(start));
        let mut bytes = vec![0; len as usize];
        read_at(self.machine.source(), self.chain, 0, start, &mut bytes)?;
        let mut steps: Vec<Placed<'_>> = Vec::new();
        self.editor.place(start, Piece::Data(&bytes), &mut steps)?;
        let plain: Vec<Step<'_>> = steps.iter().map(Placed::as_step).collect();
        self.machine.submit(&plain)?;
        // The steps that hold the unit's own bytes say where these are.
        let mut from = start;
        for step in &steps {
            if let Placed::Step(Step::Write { device, offset, data }) = step {
                places.insert(from, (*device, *offset, data.len() as u64));
                from += data.len() as u64;
            }
        }
        if self.editor.is_full() {
            self.editor.settle()?;
        }
        find(&places, at).ok_or_else(|| Error::corrupt("the unit was not placed"))
    }

    /// Makes all that was written stable.
    pub fn flush(&self) -> Result<()> {
        let places = self.places.lock();
        let settled = self.editor.settle();
        drop(places);
        let devices = self.chain.layers.iter().take(1).flat_map(|top| {
            let others = top.image.data_files().into_iter().map(|(device, _)| device);
            core::iter::once(top.device).chain(others)
        });
        let barriers: Vec<Step<'_>> = devices.map(|device| Step::Barrier { device }).collect();
        settled.and_then(|()| self.machine.submit(&barriers)).map_err(|error| failed(&error))
    }

    /// Writes what is left, tables and all.
    pub fn finish(&self) -> Result<()> {
        self.editor.finish().map_err(|error| failed(&error))
    }
}

/// Where byte `at` lies, if it was placed, and how many bytes follow it there.
fn find(places: &BTreeMap<u64, Place>, at: u64) -> Option<Place> {
    let (start, (device, offset, len)) = places.range(..=at).next_back()?;
    let skip = at - start;
    (skip < *len).then(|| (*device, offset + skip, len - skip))
}
