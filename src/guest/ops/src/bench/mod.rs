//! `bench`: many requests of one size: reads, with which nothing is done, or writes of one byte's value.
//!
//! Each worker has requests in flight of its own: it takes as many as its share of the depth and carries them out in as
//! few crossings as it can.

mod read;
mod write;

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use instar_abi::ops::bench::Bench;
use instar_image::{Error, Kind, Machine, Purpose, Result, Version};
use spin::Mutex;

use crate::disk::ROOM;
use crate::guessed::tell_guessed;
use crate::open::{ImageSpec, Opening};
use read::Reader;
use write::Writing;

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

    /// The same, if the request lies in the disk.
    fn checked(&self, index: u64) -> Result<u64> {
        let at = self.at(index);
        if at.checked_add(self.len).is_none_or(|end| end > self.disk) {
            return Err(failure("Input/output error"));
        }
        Ok(at)
    }
}

/// Reads or writes; exit status 0.
pub fn run(machine: &dyn Machine, params: &Bench, version: Version) -> Result<u8> {
    let image = ImageSpec::of(&params.image);
    let writes = params.write;
    let purpose = |depth, _: &[u8]| if writes && depth == 0 { Purpose::Write(machine) } else { Purpose::Read };
    let chain = Opening { machine, version }.chain(&image, &purpose);
    let mut chain = chain.map_err(|e| image.could_not_open(e))?;
    let requests = Requests {
        count: params.count,
        first: params.offset,
        len: params.size,
        step: params.step,
        disk: chain.virtual_size(),
    };
    if writes {
        if let Some(top) = chain.layers.first() {
            tell_guessed(machine, &image, top.format)?;
        }
        write::begin(&mut chain, &image)?;
    }
    let writing = writes.then(|| Writing::new(machine, &chain, params.pattern as u8, &requests)).transpose()?;
    machine.seal()?;
    let rounds = Rounds { machine, requests: &requests, together: together(machine, &requests, params.depth) };
    machine.stream(BEGUN)?;
    match &writing {
        None => rounds.run(0..requests.count, &|| Reader::new(machine, &chain, &requests), Reader::read)?,
        Some(writing) => {
            let written = rounds.write(writing, params.flush_interval);
            // What was written before a request failed is not lost.
            let finished = writing.finish();
            written.and(finished)?;
        }
    }
    Ok(0)
}

/// How many requests a worker takes: its share of the depth, as far as that fits the room, and at least one.
fn together(machine: &dyn Machine, requests: &Requests, depth: u64) -> u64 {
    let workers = (machine.workers() as u64).max(1);
    let share = depth.div_ceil(workers).clamp(1, TOGETHER);
    share.min(ROOM.checked_div(requests.len).unwrap_or(share)).max(1)
}

/// Requests handed out to all workers.
struct Rounds<'r> {
    machine: &'r dyn Machine,
    requests: &'r Requests,
    together: u64,
}

impl Rounds<'_> {
    /// Writes all of them; after every `interval` of them, if that is not 0, they are made stable.
    fn write(&self, writing: &Writing<'_>, interval: u64) -> Result<()> {
        let count = self.requests.count;
        let mut done = 0;
        while done < count {
            let end = if interval == 0 { count } else { count.min(done.saturating_add(interval)) };
            self.run(done..end, &|| writing, |writing, starts| writing.write(starts))?;
            if end - done == interval {
                writing.flush()?;
            }
            done = end;
        }
        Ok(())
    }

    /// Has the requests with these numbers carried out. `each`: some of them, by where they begin, with what `make` made for
    /// the worker.
    fn run<W>(
        &self,
        indices: Range<u64>,
        make: &(dyn Fn() -> W + Sync),
        each: impl Fn(&mut W, &[u64]) -> Result<()> + Sync,
    ) -> Result<()> {
        let next = AtomicU64::new(indices.start);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        self.machine.broadcast(&|_| {
            let mut worker = make();
            loop {
                let index = next.fetch_add(self.together, Ordering::Relaxed);
                if index >= indices.end || failed.lock().is_some() {
                    break;
                }
                let (mut starts, mut outcome) = (Vec::new(), Ok(()));
                for index in index..indices.end.min(index + self.together) {
                    match self.requests.checked(index) {
                        Ok(start) => starts.push(start),
                        // Those before it are carried out.
                        Err(error) => {
                            outcome = Err(error);
                            break;
                        }
                    }
                }
                if let Err(error) = each(&mut worker, &starts).and(outcome) {
                    failed.lock().get_or_insert(error);
                    break;
                }
            }
        });
        failed.into_inner().map_or(Ok(()), Err)
    }
}

/// What is said of a request that failed, with the system's words.
fn failure(why: &str) -> Error {
    Error::malformed(alloc::format!("Failed request: {why}"))
}

/// The same of an error. Whatever is wrong in the image itself, the stock tool calls it an input/output error.
fn failed(error: &Error) -> Error {
    match error.kind {
        // What was being done is not said.
        Kind::Io(_) => failure(error.cause()),
        Kind::Corrupt => failure("Input/output error").after(error.message.clone()),
        _ => failure("Input/output error"),
    }
}

#[cfg(test)]
mod tests {
    use super::Requests;

    #[test]
    fn only_the_first_request_may_lie_behind_the_disk() {
        let requests = Requests { count: 4, first: 250, len: 10, step: 30, disk: 100 };
        assert_eq!([0, 1, 2, 3].map(|index| requests.at(index)), [250, 80, 10, 40]);
        assert!(requests.checked(0).is_err() && requests.checked(1).is_ok());
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
