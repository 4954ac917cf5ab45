//! A disk that is read and written at random: a chain whose first image has an editor.
//!
//! What lies in a place of that image's own is overwritten there; else the unit gets a place, with all that the disk shows of
//! it. What was written shows at once, and is part of the image when it was flushed.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use instar_image::chain::{Chain, Layer};
use instar_image::sealed::{self, Placed};
use instar_image::write::{Piece, Target};
use instar_image::{Editor, Error, Image, Machine, Result, Spot, Step, until};
use spin::Mutex;

use crate::copy::fill::read_at;

/// Most bytes that cross at once.
pub const ROOM: u64 = 1 << 20;
/// Bytes that are encrypted together.
const SECTOR: u64 = 512;
/// Set in [`Gate`] while somebody is alone.
const ALONE: usize = 1 << (usize::BITS - 1);

/// A chain that is read and written at random. Shared by all workers: requests for different bytes may be under way at once.
pub struct WriteDisk<'c> {
    machine: &'c dyn Machine,
    chain: &'c Chain<'c>,
    image: &'c dyn Image,
    editor: &'c dyn Editor,
    /// Held while a unit is looked up and gets its place.
    placing: Mutex<()>,
    /// Held while sectors are encrypted anew of which not all is written.
    in_sectors: Mutex<()>,
    /// Whoever writes to a place has entered; whoever gives places up is alone, so that nothing is on its way to them.
    gate: Gate<'c>,
    /// A unit got a place, but not all of its bytes; or what was to be made stable may be lost. Nothing may refer to that.
    broken: AtomicBool,
}

impl<'c> WriteDisk<'c> {
    /// A chain whose first image is being changed.
    pub fn new(machine: &'c dyn Machine, chain: &'c Chain<'c>) -> Result<Self> {
        let image = chain.layers.first().map(|layer| layer.image.as_ref());
        let (Some(image), Some(editor)) = (image, image.and_then(Image::editor)) else {
            return Err(Error::corrupt("an image that is not being changed"));
        };
        let gate = Gate { machine, inside: AtomicUsize::new(0) };
        let (placing, in_sectors) = (Mutex::new(()), Mutex::new(()));
        Ok(Self { machine, chain, image, editor, placing, in_sectors, gate, broken: AtomicBool::new(false) })
    }

    /// Reads what the disk shows.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        read_at(self.machine.source(), self.chain, 0, at, buf)
    }

    /// Carries out writes, each of so many bytes from a byte of the disk on, in as few crossings as can be.
    pub fn write<'w>(&self, writes: impl Iterator<Item = (u64, &'w [u8])>) -> Result<()> {
        let _inside = self.gate.enter();
        let encrypter = self.editor.encrypter();
        let (mut steps, mut bytes) = (Vec::new(), 0);
        for (start, data) in writes {
            let whole = start.is_multiple_of(SECTOR) && (data.len() as u64).is_multiple_of(SECTOR);
            if encrypter.is_some() && !whole {
                self.write_in_sectors(start, data)?;
                continue;
            }
            let (mut at, mut rest) = (start, data);
            while !rest.is_empty() {
                let spot = self.place(at, (rest.len() as u64).min(ROOM))?;
                let (device, offset) = (spot.device, spot.offset);
                let (data, behind) = rest.split_at((spot.len as usize).min(rest.len()));
                if bytes > 0 && bytes + data.len() as u64 > ROOM {
                    sealed::submit(self.machine, steps.drain(..), encrypter)?;
                    bytes = 0;
                }
                bytes += data.len() as u64;
                steps.push(match encrypter {
                    Some(_) => Placed::Plain { device, offset, at, data },
                    None => Placed::Step(Step::Write { device, offset, data }),
                });
                at += data.len() as u64;
                rest = behind;
            }
        }
        sealed::submit(self.machine, steps, encrypter)
    }

    /// Where bytes from `at` on are written to, at most `max` of them; never none.
    fn place(&self, at: u64, max: u64) -> Result<Spot> {
        let _placing = self.placing.lock();
        let empty = || Error::corrupt("a place without a byte");
        if let Some(spot) = self.editor.own(at, max)? {
            return if spot.len > 0 { Ok(spot) } else { Err(empty()) };
        }
        let Target::Allocated { unit, .. } = self.editor.target() else { return Err(empty()) };
        let start = at - at % unit;
        let mut bytes = vec![0; unit.min(self.image.virtual_size().saturating_sub(start)) as usize];
        self.read(start, &mut bytes)?;
        let mut steps = Vec::new();
        self.editor.place(start, Piece::Data(&bytes), &mut steps)?;
        self.or_broken(sealed::submit(self.machine, steps, self.editor.encrypter()))?;
        if self.editor.is_full() {
            self.settle()?;
        }
        self.editor.own(at, max)?.filter(|spot| spot.len > 0).ok_or_else(|| Error::corrupt("the unit was not placed"))
    }

    /// A write of which not all sectors are whole: what they hold besides is read, and encrypted again with it.
    fn write_in_sectors(&self, start: u64, data: &[u8]) -> Result<()> {
        let _alone = self.in_sectors.lock();
        let end = start.saturating_add(data.len() as u64);
        let mut decoder = self.image.decoder().ok_or_else(|| Error::corrupt("an encrypted image without a key"))?;
        let mut at = start - start % SECTOR;
        while at < end {
            let Spot { device, offset, len } = self.place(at, (end - at).min(ROOM).next_multiple_of(SECTOR))?;
            let len = (len / SECTOR * SECTOR).max(SECTOR);
            let mut sectors = vec![0; len as usize];
            self.machine.read(device, offset, &mut sectors)?;
            decoder.decrypt(at, offset, &mut sectors)?;
            let (from, to) = (start.max(at), end.min(at + len));
            let old = sectors.get_mut((from - at) as usize..(to - at) as usize);
            let new = data.get((from - start) as usize..(to - start) as usize);
            if let (Some(old), Some(new)) = (old, new) {
                old.copy_from_slice(new);
            }
            let step = Placed::Plain { device, offset, at, data: &sectors };
            sealed::submit(self.machine, [step], self.editor.encrypter())?;
            at += len;
        }
        Ok(())
    }

    /// Makes so many bytes from `at` on zeroes: whole units give up their places where they can.
    pub fn zero(&self, at: u64, len: u64) -> Result<()> {
        let (start, end) = self.whole(at, len);
        for (from, to) in [(at, start), (end, at + len)] {
            self.write_zeroes(from, to)?;
        }
        self.clear(start, end)
    }

    /// What so many bytes from `at` on show no longer matters: whole units give up their places where they can.
    pub fn discard(&self, at: u64, len: u64) -> Result<()> {
        let (start, end) = self.whole(at, len);
        self.clear(start, end)
    }

    /// The whole units of a range. The disk's last one may be short.
    fn whole(&self, at: u64, len: u64) -> (u64, u64) {
        let unit = match self.editor.target() {
            Target::Allocated { unit, .. } => unit,
            Target::LinearEncrypted { .. } => SECTOR,
            Target::Linear { .. } => 1,
        };
        let size = self.image.virtual_size();
        let end = at.saturating_add(len).min(size);
        let start = at.next_multiple_of(unit).min(end);
        let end = if end == size { end } else { end - end % unit };
        (start, end.max(start))
    }

    fn write_zeroes(&self, mut at: u64, end: u64) -> Result<()> {
        let zeroes = vec![0; end.saturating_sub(at).min(ROOM) as usize];
        while at < end {
            let part = zeroes.get(..(end - at).min(ROOM) as usize).unwrap_or_default();
            self.write(core::iter::once((at, part)))?;
            at += ROOM;
        }
        Ok(())
    }

    /// Whole units become zeroes.
    fn clear(&self, start: u64, end: u64) -> Result<()> {
        let (encrypter, len) = (self.editor.encrypter(), end - start);
        if len == 0 {
            return Ok(());
        }
        let _alone = self.gate.alone();
        let mut steps = Vec::new();
        match self.editor.target() {
            Target::Allocated { .. } => self.editor.place(start, Piece::Zero(len), &mut steps)?,
            Target::Linear { device, base, .. } | Target::LinearEncrypted { device, base } => {
                steps.extend(Piece::Zero(len).placed((0, len), start, device, base.saturating_add(start), encrypter));
            }
        }
        self.or_broken(sealed::submit(self.machine, steps, encrypter))?;
        if self.editor.is_full() { self.settle() } else { Ok(()) }
    }

    fn or_broken(&self, outcome: Result<()>) -> Result<()> {
        outcome.inspect_err(|_| self.broken.store(true, Ordering::Relaxed))
    }

    /// See [`instar_image::Writer::settle`]; not where something is broken.
    fn settle(&self) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) { Ok(()) } else { self.or_broken(self.editor.settle()) }
    }

    /// Makes all that was written stable.
    pub fn flush(&self) -> Result<()> {
        let placing = self.placing.lock();
        let settled = self.settle();
        drop(placing);
        let devices = self.chain.layers.iter().take(1).flat_map(Layer::devices);
        let barriers: Vec<Step<'_>> = devices.map(|device| Step::Barrier { device }).collect();
        settled.and_then(|()| self.or_broken(self.machine.submit(&barriers)))
    }

    /// Writes what is left, tables and all. Where something is broken, the image stays as it was settled last.
    pub fn finish(&self) -> Result<()> {
        if self.broken.load(Ordering::Relaxed) { Ok(()) } else { self.editor.finish() }
    }
}

/// Many may be inside, or one alone.
struct Gate<'m> {
    machine: &'m dyn Machine,
    inside: AtomicUsize,
}

/// So many of those inside leave when this is dropped.
struct Pass<'g>(&'g AtomicUsize, usize);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Release);
    }
}

impl Gate<'_> {
    fn enter(&self) -> Pass<'_> {
        until(self.machine, || {
            let is_open = self.inside.fetch_add(1, Ordering::Acquire) < ALONE;
            // Made before it is looked at: dropped, it takes this one out again.
            let pass = Pass(&self.inside, 1);
            is_open.then_some(pass)
        })
    }

    fn alone(&self) -> Pass<'_> {
        until(self.machine, || self.inside.compare_exchange(0, ALONE, Ordering::Acquire, Ordering::Relaxed).ok());
        Pass(&self.inside, ALONE)
    }
}
