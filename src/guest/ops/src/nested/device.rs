//! A machine that has one device more: what an image shows.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::Zeroes;
use instar_image::chain::{Chain, Node};
use instar_image::keys::Keys;
use instar_image::machine::{Environment, Opener, Parallel, Report, Workers};
use instar_image::reader::is_zero;
use instar_image::walk::walk;
use instar_image::{
    Beside, DeviceId, Error, FileOffset, Machine, Place, RangePair, Read, Result, Role, Run, Scope, Sink, Source, Stat,
    Step, Value,
};

use super::through::Through;
use crate::copy::fill::{read_at, reason};

/// Bytes that are read through the image at a time.
const PIECE: usize = 256 << 10;
/// Runs that are told at a time.
const RUNS: usize = 256;

/// The machine for what lies above one image: that image is a device of it.
pub struct Nested<'m> {
    /// The machine with the devices that the image stands on.
    pub below: &'m dyn Machine,
    /// The number of the device more.
    pub id: DeviceId,
    /// The name that is shown for it.
    pub name: Vec<u8>,
    /// The device that the image is in.
    pub file: DeviceId,
    /// The image, with its backing files.
    pub image: Shown<'m>,
}

/// The image that is a device.
pub enum Shown<'m> {
    /// Is only read.
    Read(Chain<'m>),
    /// Is written to as well.
    Written(Through<'m>),
}

impl Nested<'_> {
    fn read_image(&self, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        let mut at = in_disk(offset);
        for piece in buf.chunks_mut(PIECE) {
            let read = match &self.image {
                Shown::Read(chain) => read_at(self.below.source(), chain, 0, at, piece),
                Shown::Written(through) => through.read(at, piece),
            };
            read.map_err(|e| reason(&e))?;
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Writes what is left.
    pub fn finish(&self) -> Result<()> {
        match &self.image {
            Shown::Read(_) => Ok(()),
            Shown::Written(through) => through.finish(),
        }
    }

    fn len(&self) -> u64 {
        match &self.image {
            Shown::Read(chain) => chain.virtual_size(),
            Shown::Written(through) => through.end(),
        }
    }

    /// A copy out of the image or into it: read, and written. `number`: of the step that it is.
    fn copy(
        &self,
        number: usize,
        from: (DeviceId, FileOffset),
        to: (DeviceId, FileOffset),
        len: u64,
        zeroes: Zeroes,
    ) -> Result<()> {
        let unit = zeroes.unit().map_or(PIECE, |unit| (unit as usize).clamp(1, PIECE));
        let mut buf = vec![0; PIECE - PIECE % unit];
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(buf.len() as u64);
            let buf = buf.get_mut(..piece as usize).unwrap_or_default();
            let read = self.read(from.0, from.1.saturating_add(done), buf);
            read.map_err(|e| Error { scope: Some(Scope::Source(number, done)), ..e })?;
            let mut steps = Vec::new();
            for (i, data) in buf.chunks(unit).enumerate() {
                let (device, offset) = (to.0, to.1.saturating_add(done + (i * unit) as u64));
                let is_left_out = zeroes.unit().is_some() && is_zero(data);
                match steps.last_mut() {
                    _ if !is_left_out => steps.push(Step::Write { device, offset, data }),
                    _ if !matches!(zeroes, Zeroes::Unmapped(_)) => {}
                    Some(Step::Zero { len, .. }) => *len += data.len() as u64,
                    _ => steps.push(Step::Zero { device, offset, len: data.len() as u64, unmap: true }),
                }
            }
            let written = self.submit(&steps);
            written.map_err(|e| Error { scope: Some(Scope::Target(number, done)), ..e })?;
            done += piece;
        }
        Ok(())
    }
}

/// The byte of the image's disk that is there in the device which the image is.
const fn in_disk(offset: FileOffset) -> u64 {
    offset.get()
}

const fn target(step: &Step<'_>) -> DeviceId {
    match *step {
        Step::Copy { to, .. } => to,
        Step::Write { device, .. }
        | Step::Zero { device, .. }
        | Step::Discard { device, .. }
        | Step::Allocate { device, .. }
        | Step::SetLength { device, .. }
        | Step::Barrier { device } => device,
    }
}

impl Parallel for Nested<'_> {
    fn each(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        self.below.each(count, body);
    }
}

impl Source for Nested<'_> {
    fn stat(&self, device: DeviceId) -> Result<Stat> {
        if device != self.id {
            return self.below.stat(device);
        }
        let file = self.below.stat(self.file)?;
        Ok(Stat {
            len: self.len(),
            // What has the length that it has is treated as a device is.
            block_device: matches!(&self.image, Shown::Written(through) if through.is_fixed()),
            writable: matches!(self.image, Shown::Written(_)),
            fresh: false,
            same_file: self.id,
            shares: false,
            ..file
        })
    }

    fn read_many(&self, reads: &mut [Read<'_>]) -> Result<()> {
        let mut others = Vec::with_capacity(reads.len());
        for read in reads {
            if read.device == self.id {
                self.read_image(read.offset, read.buf)?;
            } else {
                others.push(Read { device: read.device, offset: read.offset, buf: &mut *read.buf });
            }
        }
        if others.is_empty() { Ok(()) } else { self.below.read_many(&mut others) }
    }

    fn runs(&self, device: DeviceId, offset: FileOffset, len: u64, runs: &mut Vec<Run>) -> Result<FileOffset> {
        if device != self.id {
            return self.below.runs(device, offset, len, runs);
        }
        match &self.image {
            Shown::Read(chain) => image_runs(chain, offset, len, runs),
            Shown::Written(through) => {
                let len = len.min(through.end().saturating_sub(in_disk(offset)));
                through.look(|chain| image_runs(chain, offset, len, runs))
            }
        }
    }

    fn is_stock(&self) -> bool {
        self.below.is_stock()
    }

    fn secret(&self, id: &str) -> Option<&[u8]> {
        self.below.secret(id)
    }

    fn keys(&self) -> Option<&Keys> {
        self.below.keys()
    }

    fn node(&self, device: DeviceId) -> Option<Node<'_>> {
        if device != self.id {
            return self.below.node(device);
        }
        // Only what is not changed meanwhile is told of.
        let Shown::Read(chain) = &self.image else { return None };
        chain.layers.split_first().map(|(layer, behind)| Node { layer, behind, name: &self.name })
    }

    fn keeps_length(&self, device: DeviceId, to: u64) -> Option<Error> {
        match &self.image {
            _ if device != self.id => self.below.keeps_length(device, to),
            Shown::Written(through) => through.keeps_length(to),
            Shown::Read(_) => None,
        }
    }

    fn equal_prefixes(&self, pairs: &[RangePair], equal: &mut [u64]) -> Result<()> {
        for (pair, equal) in pairs.iter().zip(equal) {
            if pair.a.0 != self.id && pair.b.0 != self.id {
                self.below.equal_prefixes(core::slice::from_ref(pair), core::slice::from_mut(equal))?;
                continue;
            }
            *equal = self.equal_prefix(pair)?;
        }
        Ok(())
    }
}

impl Nested<'_> {
    fn equal_prefix(&self, pair: &RangePair) -> Result<u64> {
        let (mut one, mut other) = (vec![0; PIECE], vec![0; PIECE]);
        let mut done = 0;
        while done < pair.len {
            let len = (pair.len - done).min(PIECE as u64) as usize;
            let (one, other) = (one.get_mut(..len).unwrap_or_default(), other.get_mut(..len).unwrap_or_default());
            self.read(pair.a.0, pair.a.1.saturating_add(done), one)?;
            self.read(pair.b.0, pair.b.1.saturating_add(done), other)?;
            if let Some(at) = one.iter().zip(&*other).position(|(a, b)| a != b) {
                return Ok(done + at as u64);
            }
            done += len as u64;
        }
        Ok(done)
    }
}

impl Sink for Nested<'_> {
    fn submit(&self, steps: &[Step<'_>]) -> Result<()> {
        let mine =
            |step: &Step<'_>| target(step) == self.id || matches!(*step, Step::Copy { from, .. } if from == self.id);
        let mut first = 0;
        for run in steps.chunk_by(|a, b| !mine(a) && !mine(b)) {
            match run {
                [step] if mine(step) => self.carry_out(first, step)?,
                _ => self.below.submit(run).map_err(|e| e.of_steps_behind(first))?,
            }
            first += run.len();
        }
        Ok(())
    }
}

impl Nested<'_> {
    /// Carries out a step that has to do with the image. `number`: which one of those submitted it is.
    fn carry_out(&self, number: usize, step: &Step<'_>) -> Result<()> {
        let through = match &self.image {
            Shown::Written(through) => Some(through),
            Shown::Read(_) if target(step) == self.id => return Err(Error::unsupported("Block node is read-only")),
            Shown::Read(_) => None,
        };
        match (*step, through) {
            (Step::Copy { from, .. }, Some(through)) if from != self.id && through.is_linear() => {
                through.carry_out(step).map_err(|e| e.of_steps_behind(number))
            }
            (Step::Copy { from, from_offset, to, to_offset, len, zeroes }, _) => {
                self.copy(number, (from, from_offset), (to, to_offset), len, zeroes)
            }
            (_, Some(through)) => through.carry_out(step),
            (_, None) => Err(Error::corrupt("a step for another device")),
        }
    }
}

/// The runs of data that an image shows, and of nothing.
fn image_runs(chain: &Chain<'_>, offset: FileOffset, len: u64, runs: &mut Vec<Run>) -> Result<FileOffset> {
    let start = in_disk(offset);
    let end = start.saturating_add(len).min(chain.virtual_size());
    let mut at = start;
    for found in walk(start..end, |at, max| chain.extent(at, max)).take(RUNS) {
        let extent = match found {
            // It is an error when it is asked for by itself.
            Err(_) if at > start => break,
            other => other?.1,
        };
        let data = !matches!(extent.place, Place::Zero { .. } | Place::Unallocated);
        match runs.last_mut().filter(|last| at > start && last.data == data) {
            Some(last) => last.len += extent.len,
            None => runs.push(Run { len: extent.len, data }),
        }
        at += extent.len;
    }
    Ok(FileOffset::new(at))
}

impl Opener for Nested<'_> {
    fn open_named(&self, from: DeviceId, name: &[u8], role: Role, write: bool) -> Result<DeviceId> {
        self.below.open_named(if from == self.id { self.file } else { from }, name, role, write)
    }
}

impl Workers for Nested<'_> {
    fn workers(&self) -> usize {
        self.below.workers()
    }

    fn broadcast(&self, body: &(dyn Fn(usize) + Sync)) {
        self.below.broadcast(body);
    }

    fn relax(&self, spins: &mut u32) {
        self.below.relax(spins);
    }
}

impl Report for Nested<'_> {
    fn progress(&self, done: u64, total: u64) {
        self.below.progress(done, total);
    }

    fn say(&self, text: &str) -> Result<()> {
        self.below.say(text)
    }

    fn stream(&self, records: &[u8]) -> Result<()> {
        self.below.stream(records)
    }

    fn emit(&self, key: &str, value: &Value) -> Result<()> {
        self.below.emit(key, value)
    }
}

impl Environment for Nested<'_> {
    fn now_seconds(&self) -> u64 {
        self.below.now_seconds()
    }

    fn clock(&self) -> Result<u64> {
        self.below.clock()
    }

    fn random(&self, bytes: &mut [u8]) {
        self.below.random(bytes);
    }

    fn random_id(&self) -> [u8; 16] {
        self.below.random_id()
    }
}

impl Machine for Nested<'_> {
    fn source(&self) -> &dyn Source {
        self
    }

    fn create_beside(&self, target: DeviceId, kind: Beside, number: u64) -> Result<DeviceId> {
        self.below.create_beside(target, kind, number)
    }

    fn seal(&self) -> Result<()> {
        self.below.seal()
    }
}
