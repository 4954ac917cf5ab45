//! `bench`

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use instar_abi::boot::MAX_WORKERS;
use instar_abi::ops::bench::Bench;
use instar_abi::ring::LOG_RECORDS;
use instar_render::escape;
use instar_vmm::Observer;
use instar_vmm::target::Cache;

use super::Command;
use super::options::{FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, QUIET};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::progress::show_lines;
use crate::running::Defaults;
use crate::streams;

/// The command.
pub const COMMAND: Command = Command {
    name: "bench",
    group: Group::Look,
    about: "Measure many reads or writes of one size.",
    operands: "FILE",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt::value("cache", "MODE", "how the image is read: writeback if not given").letter('t'),
        Opt::value("count", "COUNT", "how many requests: 75000 if not given").letter('c'),
        Opt::value("depth", "DEPTH", "how many of them at once: 64 if not given").letter('d'),
        Opt::value("offset", "OFFSET", "where the first one begins").letter('o'),
        Opt::value("buffer-size", "SIZE", "bytes of a request: 4096 if not given").letter('s'),
        Opt::value("step-size", "SIZE", "how far apart they begin: as far as they are long if not given").letter('S'),
        Opt::value("aio", "AIO", "threads, native (needs -t none) or io_uring: changes nothing else").letter('i'),
        Opt::flag("native", "the same as -i native").letter('n'),
        Opt::flag("write", "write instead").letter('w'),
        Opt::value("pattern", "BYTE", "the value of the bytes that are written: 0 if not given"),
        Opt::value("flush-interval", "COUNT", "make what was written stable after so many requests"),
        Opt::flag("no-drain", "taken: a flush waits for the requests before it"),
        FORCE_SHARE,
        QUIET,
        OBJECT,
    ],
    stock: true,
    manual: &pages::BENCH,
    run,
};

/// What the command line asks for.
struct Requests {
    count: u64,
    depth: u64,
    offset: u64,
    size: u64,
    step: u64,
    pattern: u64,
    /// Requests between two flushes; 0: none.
    flush_interval: u64,
}

impl Requests {
    fn read(program: &Program, parsed: &Parsed) -> Result<Self, Exit> {
        const INT_MAX: u64 = i32::MAX as u64;
        let number = |key: &str, what: &str, (least, most): (u64, u64), default: u64| {
            parsed.text(key).map_or(Ok(default), |text| program.size(&text, what, least..=most))
        };
        let size = number("buffer-size", "buffer size", (1, INT_MAX), 4096)?;
        let requests = Self {
            count: number("count", "request count", (1, INT_MAX), 75_000)?,
            depth: number("depth", "queue depth", (1, INT_MAX), 64)?,
            offset: number("offset", "offset", (0, i64::MAX as u64), 0)?,
            size,
            step: number("step-size", "step size", (0, INT_MAX), 0)?,
            pattern: number("pattern", "pattern byte", (0, 255), 0)?,
            flush_interval: number("flush-interval", "flush interval", (0, INT_MAX), 0)?,
        };
        // QEMU takes 0 for none.
        let step = if requests.step == 0 { size } else { requests.step };
        Ok(Self { step, ..requests })
    }
}

/// Tells when the image is open, and measures from then on.
struct Clock {
    begun: Mutex<Option<Instant>>,
    /// What is said then; `-q` changes nothing, as with the stock tool.
    text: String,
}

impl Observer for Clock {
    fn progress(&self, _done: u64, _total: u64) {}

    fn log(&self, level: u32, bytes: &[u8]) -> u64 {
        if level != LOG_RECORDS {
            return show_lines(level, bytes);
        }
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.is_none() {
            // A reader that has gone away does not keep the requests from being made.
            let _ = streams::show(&format!("{}\n", self.text));
            *begun = Some(Instant::now());
        }
        0
    }
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let requests = Requests::read(program, parsed)?;
    let cache = Cache::by_name(parsed.text("cache").as_deref().unwrap_or("writeback"));
    let cache = cache.ok_or_else(|| program.fail("Invalid cache mode"))?;
    if let Some(aio) = parsed.text("aio").filter(|aio| !matches!(aio.as_str(), "threads" | "native" | "io_uring")) {
        return Err(program.fail(&format!("Invalid aio option: {aio}")));
    }
    let [operand] = &parsed.operands[..] else { return Err(program.usage("Expecting one image file name")) };
    let writes = parsed.has("write");
    if !writes && requests.flush_interval > 0 {
        return Err(program.fail("--flush-interval is only available in write tests"));
    }
    if requests.flush_interval > 0 && requests.flush_interval < requests.depth {
        return Err(program.fail("Flush interval can't be smaller than depth"));
    }
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    super::info::check_objects(program)?;
    let image = super::info::named(program, operand, parsed)?;
    let refused = |text: &str| {
        let written = escape::terminal(image.written.as_encoded_bytes());
        program.fail(&format!("Could not open '{written}': {text}"))
    };
    if writes && parsed.has("force-share") {
        return Err(refused("force-share=on can only be used with read-only images"));
    }
    let device = match writes {
        true => program.open_in_place(&image, cache)?,
        false => program.open_source(&image, cache, parsed.has("force-share"))?,
    };
    if (parsed.has("native") || parsed.text("aio").as_deref() == Some("native")) && !cache.direct {
        return Err(refused("aio=native was specified, but it requires cache.direct=on, which was not specified."));
    }
    let Requests { count, depth, offset, size, step, pattern, flush_interval } = requests;
    let what = if writes { "write" } else { "read" };
    let mut told = format!(
        "Sending {count} {what} requests, {size} bytes each, {depth} in parallel (starting at offset {offset}, step size \
         {step})"
    );
    if flush_interval > 0 {
        told.push_str(&format!("\nSending flush every {flush_interval} requests"));
    }
    let clock = Clock { begun: Mutex::new(None), text: told };
    let subject = image.path.to_string_lossy();
    // A request that waits for a disk keeps its worker, but no processor: there as many as can be.
    let most = if cache.direct { MAX_WORKERS } else { program.workers() };
    let workers = u32::try_from(depth.min(count)).unwrap_or(u32::MAX).min(most);
    let mut call = Call::of(&image, device, parsed.has("force-share"));
    let image = call.described(program)?.image();
    let params = Bench { image, count, depth, offset, size, step, write: writes, pattern, flush_interval };
    let (status, ()) = program.run(params, call, workers, &Defaults::DATA, &subject, &clock)?;
    let begun = clock.begun.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(begun) = begun.filter(|_| status == 0) {
        program.print(&format!("Run completed in {:.3} seconds.\n", begun.elapsed().as_secs_f64()))?;
    }
    Ok(status)
}
