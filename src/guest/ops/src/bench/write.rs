//! Writes. The first one into a unit of the image finds a place for all of it, with what the disk showed there before;
//! the place is the image's alone then, and further ones go straight to it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use instar_image::chain::Chain;
use instar_image::machine::display_name;
use instar_image::sealed::{self, Placed};
use instar_image::write::{Piece, Target};
use instar_image::{DeviceId, EditContext, Editor, Error, Kind, Machine, Result, Step};
use spin::Mutex;

use super::{ROOM, Requests, failed};
use crate::copy::fill::read_at;
use crate::open::{ImageSpec, Opening};

/// Most units whose places are remembered: some 40 bytes each.
const PLACES_MAX: usize = 1 << 19;
/// The number of the system's "Cannot allocate memory".
const ENOMEM: u32 = 12;
/// Bytes that are encrypted together.
const SECTOR: u64 = 512;

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
    /// Held while one request is written, where requests share sectors that are encrypted as a whole.
    whole_sectors: Option<Mutex<()>>,
    /// A unit got a place, but not all of its bytes; or what was to be made stable may be lost. Nothing may refer to that.
    broken: AtomicBool,
}

impl<'a> Writing<'a> {
    /// Opens the chain's first image to be changed.
    pub fn open(
        opening: Opening<'a>,
        image: &ImageSpec,
        chain: &'a Chain<'a>,
        pattern: u8,
        requests: &Requests,
    ) -> Result<Self> {
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
        let len = requests.len;
        let bytes = vec![pattern; len.min(ROOM) as usize];
        let whole =
            [requests.first, len, requests.step, requests.disk].iter().all(|number| number.is_multiple_of(SECTOR));
        let whole_sectors = (editor.encrypter().is_some() && !whole).then(Mutex::default);
        Ok(Self {
            machine,
            chain,
            editor,
            len,
            bytes,
            places: Mutex::default(),
            whole_sectors,
            broken: AtomicBool::new(false),
        })
    }

    /// Carries out the requests that begin there.
    pub fn write(&self, starts: &[u64]) -> Result<()> {
        if let Some(alone) = &self.whole_sectors {
            let _alone = alone.lock();
            return starts.iter().try_for_each(|start| self.write_in_sectors(*start)).map_err(|error| failed(&error));
        }
        // What is longer than the room does not cross at once.
        let (mut steps, mut bytes) = (Vec::new(), 0);
        for start in starts {
            let submitted = self.each_part(*start, self.len, |step, len| {
                if bytes > 0 && bytes + len > ROOM {
                    sealed::submit(self.machine, steps.drain(..), self.editor.encrypter())?;
                    bytes = 0;
                }
                bytes += len;
                steps.push(step);
                Ok(())
            });
            submitted.map_err(|error| failed(&error))?;
        }
        sealed::submit(self.machine, steps, self.editor.encrypter()).map_err(|error| failed(&error))
    }

    /// Gives what writes `len` bytes from byte `start` of the disk on, piece by piece, with how many bytes each is; units
    /// that these are the first to touch are placed.
    fn each_part<'s>(
        &'s self,
        start: u64,
        len: u64,
        mut with: impl FnMut(Placed<'s>, u64) -> Result<()>,
    ) -> Result<()> {
        let end = start.saturating_add(len);
        let encrypted = self.editor.encrypter().is_some();
        let mut at = start;
        while at < end {
            let (device, offset, most) = self.place(at, end - at)?;
            let len = most.min(end - at).min(self.bytes.len() as u64);
            let data = self.bytes.get(..len as usize).filter(|data| !data.is_empty());
            let data = data.ok_or_else(|| Error::corrupt("a place without a byte"))?;
            let step = if encrypted {
                Placed::Plain { device, offset, at, data }
            } else {
                Placed::Step(Step::Write { device, offset, data })
            };
            with(step, len)?;
            at += len;
        }
        Ok(())
    }

    /// Where byte `at` of the disk is written to, and how many of the `len` bytes from there on follow it.
    fn place(&self, at: u64, len: u64) -> Result<Place> {
        match self.editor.target() {
            Target::Linear { device, base, .. } | Target::LinearEncrypted { device, base } => {
                Ok((device, base.saturating_add(at), len))
            }
            Target::Allocated { unit, .. } => self.place_of(at, unit),
        }
    }

    /// The request that begins there, of which not all sectors are whole: what they hold besides is read, and encrypted
    /// again with it.
    fn write_in_sectors(&self, start: u64) -> Result<()> {
        let end = start.saturating_add(self.len);
        let image = &self.chain.layers.first().ok_or_else(|| Error::corrupt("a chain without an image"))?.image;
        let mut decoder = image.unpacker().ok_or_else(|| Error::corrupt("an encrypted image without a key"))?;
        let mut at = start - start % SECTOR;
        while at < end {
            let (device, offset, most) = self.place(at, end - at)?;
            let most = most.min(ROOM);
            let len = most.min((end - at).next_multiple_of(SECTOR)).max(SECTOR) / SECTOR * SECTOR;
            let mut sectors = vec![0; len as usize];
            self.machine.read(device, offset, &mut sectors)?;
            decoder.decrypt(at, offset, &mut sectors)?;
            let (from, to) = (start.max(at) - at, end.min(at + len) - at);
            let pattern = self.bytes.first().copied().unwrap_or_default();
            sectors.get_mut(from as usize..to as usize).unwrap_or_default().fill(pattern);
            let step = Placed::Plain { device, offset, at, data: &sectors };
            sealed::submit(self.machine, [step], self.editor.encrypter())?;
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
        // The steps that hold the unit's own bytes say where these are.
        let own = steps.iter().filter_map(|step| match step {
            Placed::Step(Step::Write { device, offset, data }) | Placed::Plain { device, offset, data, .. } => {
                Some((*device, *offset, data.len() as u64))
            }
            _ => None,
        });
        let own: Vec<Place> = own.collect();
        self.or_broken(sealed::submit(self.machine, steps, self.editor.encrypter()))?;
        let mut from = start;
        for place in own {
            places.insert(from, place);
            from += place.2;
        }
        if self.editor.is_full() {
            self.settle()?;
        }
        find(&places, at).ok_or_else(|| Error::corrupt("the unit was not placed"))
    }

    fn or_broken(&self, outcome: Result<()>) -> Result<()> {
        outcome.inspect_err(|_| self.broken.store(true, Ordering::Relaxed))
    }

    /// See [`Editor`]'s; not where something is broken.
    fn settle(&self) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) { Ok(()) } else { self.or_broken(self.editor.settle()) }
    }

    /// Makes all that was written stable.
    pub fn flush(&self) -> Result<()> {
        let places = self.places.lock();
        let settled = self.settle();
        drop(places);
        let devices = self.chain.layers.iter().take(1).flat_map(|top| {
            let others = top.image.data_files().into_iter().map(|(device, _)| device);
            core::iter::once(top.device).chain(others)
        });
        let barriers: Vec<Step<'_>> = devices.map(|device| Step::Barrier { device }).collect();
        let flushed = settled.and_then(|()| self.or_broken(self.machine.submit(&barriers)));
        flushed.map_err(|error| failed(&error))
    }

    /// Writes what is left, tables and all. Where something is broken, the image stays as it was settled last.
    pub fn finish(&self) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.editor.finish().map_err(|error| failed(&error))
    }
}

/// Where byte `at` lies, if it was placed, and how many bytes follow it there.
fn find(places: &BTreeMap<u64, Place>, at: u64) -> Option<Place> {
    let (start, (device, offset, len)) = places.range(..=at).next_back()?;
    let skip = at - start;
    (skip < *len).then(|| (*device, offset + skip, len - skip))
}
