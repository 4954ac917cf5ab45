//! `bench`: many reads of one size, and nothing is done with what they read.
//!
//! Each worker has requests in flight of its own: it takes as many as its share of the depth, finds where they lie and
//! reads them in one crossing. Decompression and decryption are part of a read.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use instar_image::chain::Chain;
use instar_image::{Error, Kind, Machine, Result, Value, Version};
use spin::Mutex;

use crate::copy::fill::{Area, Filler};
use crate::copy::plan::Part;
use crate::open::{ImageSpec, Opening};

/// Most bytes that a worker reads in one crossing: what is left of a longer request is read after that.
const ROOM: u64 = 1 << 20;
/// Most requests of one crossing.
const TOGETHER: u64 = 64;

/// The image is open and the requests begin: what [`Machine::stream`] tells the host.
const BEGUN: &[u8] = b"begun";

/// Which requests there are; lengths in bytes.
struct Requests {
    count: u64,
    first: u64,
    len: u64,
    step: u64,
    disk: u64,
}

impl Requests {
    /// Where request `index` begins: behind the disk's end they go on at its beginning, the first one does not.
    fn at(&self, index: u64) -> u64 {
        if index == 0 {
            return self.first;
        }
        let at = u128::from(self.first) + u128::from(index) * u128::from(self.step);
        at.checked_rem(u128::from(self.disk)).unwrap_or(0) as u64
    }
}

/// Reads; exit status 0.
pub fn run(machine: &dyn Machine, params: &Value, version: Version) -> Result<u8> {
    let image = params.get("image").ok_or_else(|| Error::usage("bench without an image"))?;
    let image = ImageSpec::from_value(image)?;
    let chain = Opening { machine, version, data: true }.chain(&image)?;
    machine.seal()?;
    let number = |key| params.u64(key).unwrap_or(0);
    let requests = Requests {
        count: number("count"),
        first: number("offset"),
        len: number("size"),
        step: number("step"),
        disk: chain.virtual_size(),
    };
    let workers = (machine.workers() as u64).max(1);
    let share = number("depth").div_ceil(workers).clamp(1, TOGETHER);
    // As few at once as fit the room, and at least one.
    let together = share.min(ROOM.checked_div(requests.len).unwrap_or(share)).max(1);
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    machine.stream(BEGUN)?;
    machine.broadcast(&|_| {
        let mut worker = Worker::new(machine, core::slice::from_ref(&chain), &requests);
        loop {
            let index = next.fetch_add(together, Ordering::Relaxed);
            if index >= requests.count || failed.lock().is_some() {
                break;
            }
            if let Err(error) = worker.read(index..requests.count.min(index + together)) {
                failed.lock().get_or_insert(error);
                break;
            }
        }
    });
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    Ok(0)
}

/// One worker's buffers.
struct Worker<'a> {
    chains: &'a [Chain<'a>],
    requests: &'a Requests,
    filler: Filler<'a>,
    room: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(machine: &'a dyn Machine, chains: &'a [Chain<'a>], requests: &'a Requests) -> Self {
        Self { chains, requests, filler: Filler::new(chains, machine.source(), false), room: Vec::new() }
    }

    /// Carries out some requests: all in one crossing, or, where one alone is longer than the room, piece by piece.
    fn read(&mut self, indices: core::ops::Range<u64>) -> Result<()> {
        let Requests { len, disk, .. } = *self.requests;
        let mut starts = Vec::with_capacity((indices.end - indices.start) as usize);
        for index in indices {
            let at = self.requests.at(index);
            if at.checked_add(len).is_none_or(|end| end > disk) {
                return Err(failure());
            }
            starts.push(at);
        }
        let mut done = 0;
        while done < len {
            let piece = ROOM.min(len - done);
            self.read_pieces(&starts, done, piece)?;
            done += piece;
        }
        Ok(())
    }

    /// Reads `len` bytes of each request, from byte `skip` of it on.
    fn read_pieces(&mut self, starts: &[u64], skip: u64, len: u64) -> Result<()> {
        let parts: Vec<Vec<Part>> = starts.iter().map(|at| self.parts(at + skip, len)).collect::<Result<_>>()?;
        if self.room.len() < starts.len() * len as usize {
            self.room = vec![0; starts.len() * len as usize];
        }
        let bufs = self.room.chunks_exact_mut(len as usize);
        let mut areas: Vec<Area<'_>> = starts
            .iter()
            .zip(&parts)
            .zip(bufs)
            .map(|((at, parts), buf)| Area { parts, base: at + skip, buf })
            .collect();
        self.filler.fill_all(&mut areas).map_err(|_| failure())
    }

    /// What a range of the disk consists of.
    fn parts(&self, at: u64, len: u64) -> Result<Vec<Part>> {
        let Some(chain) = self.chains.first() else { return Ok(Vec::new()) };
        let (mut parts, mut done) = (Vec::new(), 0);
        while done < len {
            let (depth, extent) = match chain.extent(at + done, len - done) {
                Ok(found) if found.1.len > 0 => found,
                Err(error) if matches!(error.kind, Kind::Corrupt) => return Err(failure().after(error.message)),
                _ => return Err(failure()),
            };
            parts.push(Part { source: 0, depth, at: at + done, extent, work: true });
            done += extent.len;
        }
        Ok(parts)
    }
}

/// Whatever is wrong, the stock tool calls it an input/output error.
fn failure() -> Error {
    Error::malformed("Failed request: Input/output error")
}

#[cfg(test)]
mod tests {
    use super::Requests;

    #[test]
    fn only_the_first_request_may_lie_behind_the_disk() {
        let requests = Requests { count: 4, first: 250, len: 10, step: 30, disk: 100 };
        assert_eq!([0, 1, 2, 3].map(|index| requests.at(index)), [250, 80, 10, 40]);
    }

    #[test]
    fn offsets_do_not_overflow() {
        let (first, step) = (i64::MAX as u64, i32::MAX as u64);
        let requests = Requests { count: step, first, len: 1, step, disk: 1 << 62 };
        let expected = (u128::from(first) + u128::from(step) * u128::from(step)) % (1 << 62);
        assert_eq!(u128::from(requests.at(step)), expected);
        assert_eq!(Requests { disk: 0, ..requests }.at(1), 0);
    }
}
