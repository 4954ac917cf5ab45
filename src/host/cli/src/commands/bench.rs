//! `bench`

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use instar_abi::ring::LOG_RECORDS;
use instar_vmm::Observer;
use instar_vmm::target::Cache;

use super::Command;
use super::options::{FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, QUIET};
use crate::getopt::{Opt, Parsed};
use crate::program::{Defaults, Exit, Program, image_params, workers};
use crate::progress::show_lines;
use crate::sizes;

/// The command.
pub const COMMAND: Command = Command {
    name: "bench",
    about: "Run a simple benchmark: many reads of one size.",
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
        Opt::value("aio", "AIO", "threads, native or io_uring: taken, changes nothing").letter('i'),
        Opt::flag("native", "taken, changes nothing").letter('n'),
        Opt::flag("write", "write instead (not yet)").letter('w'),
        Opt::value("pattern", "BYTE", "what is written"),
        Opt::value("flush-interval", "COUNT", "flush after so many writes"),
        Opt::flag("no-drain", "do not wait before a flush"),
        FORCE_SHARE,
        QUIET,
        OBJECT,
    ],
    stock: true,
    run,
};

/// What the command line asks for.
struct Requests {
    count: u64,
    depth: u64,
    offset: u64,
    size: u64,
    step: u64,
}

impl Requests {
    fn read(program: &Program, parsed: &Parsed) -> Result<Self, Exit> {
        const INT_MAX: u64 = i32::MAX as u64;
        let number = |key: &str, what: &str, (least, most): (u64, u64), default: u64| {
            let Some(text) = parsed.text(key) else { return Ok(default) };
            let bounds = || {
                let text = format!("Invalid {what} specified. Must be between {least} and {most}.");
                program.fail(&text)
            };
            match sizes::parse(text.strip_prefix('-').unwrap_or(&text)) {
                Some(_) if text.starts_with('-') => Err(bounds()),
                Some(number) if (least..=most).contains(&number) => Ok(number),
                Some(_) => Err(bounds()),
                None if sizes::is_out_of_range(&text) => Err(bounds()),
                None => Err(program.fail(&program.version.bad_size(what, &text))),
            }
        };
        let size = number("buffer-size", "buffer size", (1, INT_MAX), 4096)?;
        let requests = Self {
            count: number("count", "request count", (1, INT_MAX), 75_000)?,
            depth: number("depth", "queue depth", (1, INT_MAX), 64)?,
            offset: number("offset", "offset", (0, i64::MAX as u64), 0)?,
            size,
            step: number("step-size", "step size", (0, INT_MAX), 0)?,
        };
        number("pattern", "pattern byte", (0, 255), 0)?;
        number("flush-interval", "flush interval", (0, INT_MAX), 0)?;
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

    fn log(&self, level: u32, bytes: &[u8]) {
        if level != LOG_RECORDS {
            return show_lines(level, bytes);
        }
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.is_none() {
            let mut out = std::io::stdout().lock();
            // A reader that has gone away does not keep the requests from being made.
            let _ = writeln!(out, "{}", self.text).and_then(|()| out.flush());
            *begun = Some(Instant::now());
        }
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
    if !parsed.has("write") && parsed.has("flush-interval") {
        return Err(program.fail("--flush-interval is only available in write tests"));
    }
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    super::info::check_objects(program, parsed)?;
    if parsed.has("write") {
        return Err(program.fail("--write (-w) is not supported yet: instar only reads here"));
    }
    let image = super::info::named(program, operand, parsed)?;
    let device = program.open_source(&image, cache, parsed.has("force-share"))?;
    let Requests { count, depth, offset, size, step } = requests;
    let mut params = program.params("bench");
    params
        .set("image", image_params(&image, 0))
        .set("count", count)
        .set("depth", depth)
        .set("offset", offset)
        .set("size", size)
        .set("step", step);
    let told = format!(
        "Sending {count} read requests, {size} bytes each, {depth} in parallel (starting at offset {offset}, step size \
         {step})"
    );
    let clock = Clock { begun: Mutex::new(None), text: told };
    let subject = image.path.to_string_lossy();
    let workers = u32::try_from(depth).unwrap_or(u32::MAX).min(workers());
    let (status, _) = program.run(&params, vec![device], workers, &Defaults::DATA, &subject, &clock)?;
    let begun = clock.begun.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(begun) = begun.filter(|_| status == 0) {
        program.print(&format!("Run completed in {:.3} seconds.\n", begun.elapsed().as_secs_f64()))?;
    }
    Ok(status)
}
