//! `convert`

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use instar_abi::record::Value;
use instar_render::escape::terminal;
use instar_vmm::target::{self, Cache, Target};
use instar_vmm::{Device, Mode, Observer};

use super::Command;
use crate::getopt::{Opt, Parsed};
use crate::image_name::ImageName;
use crate::program::{Defaults, Exit, Program, device, image_params, plain};
use crate::sizes;

/// The command.
pub const COMMAND: Command = Command {
    name: "convert",
    about: "Copy an image to another file, format or set of options.",
    operands: "FILE [FILE...] TARGET",
    options: &[
        Opt {
            long: "source-format",
            short: Some('f'),
            argument: Some("FMT"),
            help: "the sources' format; found out if not given",
        },
        Opt {
            long: "image-opts",
            short: None,
            argument: None,
            help: "each FILE is a list of options: driver=..,file.filename=..",
        },
        Opt { long: "source-cache", short: Some('T'), argument: Some("MODE"), help: "how the sources are read" },
        Opt { long: "snapshot", short: Some('l'), argument: Some("SNAPSHOT"), help: "convert that internal snapshot" },
        Opt { long: "bitmaps", short: None, argument: None, help: "copy persistent dirty bitmaps" },
        Opt {
            long: "skip-broken-bitmaps",
            short: None,
            argument: None,
            help: "leave out bitmaps that are inconsistent",
        },
        Opt { long: "salvage", short: None, argument: None, help: "put zeroes where a source cannot be read" },
        Opt {
            long: "target-format",
            short: Some('O'),
            argument: Some("FMT"),
            help: "the target's format: raw if not given",
        },
        Opt { long: "target-image-opts", short: None, argument: None, help: "TARGET is a list of options (with -n)" },
        Opt { long: "target-is-zero", short: None, argument: None, help: "the target reads as zeroes (with -n)" },
        Opt { long: "target-cache", short: Some('t'), argument: Some("MODE"), help: "how the target is written" },
        Opt {
            long: "backing",
            short: Some('B'),
            argument: Some("FILE"),
            help: "the target stands on FILE and holds what differs",
        },
        Opt { long: "backing-format", short: Some('F'), argument: Some("FMT"), help: "that file's format" },
        Opt {
            long: "options",
            short: Some('o'),
            argument: Some("OPTS"),
            help: "the target format's options; `help` lists them",
        },
        Opt { long: "no-create", short: Some('n'), argument: None, help: "write into the existing target" },
        Opt {
            long: "sparse-size",
            short: Some('S'),
            argument: Some("SIZE"),
            help: "shortest run of zeroes that becomes a hole; 0: none",
        },
        Opt { long: "compress", short: Some('c'), argument: None, help: "compress" },
        Opt { long: "copy-range-offloading", short: Some('C'), argument: None, help: "let the file system copy" },
        Opt { long: "oob", short: Some('W'), argument: None, help: "write in any order" },
        Opt { long: "parallel", short: Some('m'), argument: Some("N"), help: "at most so many requests at once" },
        Opt { long: "rate-limit", short: Some('r'), argument: Some("RATE"), help: "at most so many bytes a second" },
        Opt { long: "progress", short: Some('p'), argument: None, help: "show how far it is" },
        Opt { long: "quiet", short: Some('q'), argument: None, help: "print nothing" },
        Opt {
            long: "force-share",
            short: Some('U'),
            argument: None,
            help: "also while another program writes to a source",
        },
        Opt { long: "object", short: None, argument: Some("OBJECT"), help: "a secret" },
    ],
    stock: true,
    run,
};

const SPARSE_DEFAULT: u64 = 4096;
const SECTOR: u64 = 512;
/// Longest run of zeroes that `-S` may ask for.
const SPARSE_MAX: u64 = 16 << 20;
/// Parallel work beyond this does not pay.
const WORKERS_MAX: usize = 8;

/// What the options say, checked.
struct Request {
    sparse: u64,
    target_cache: Cache,
    source_cache: Cache,
    format: String,
    rate: u64,
}

fn check(program: &Program, parsed: &Parsed) -> Result<Request, Exit> {
    if parsed.has("image-opts") && parsed.has("source-format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    let size = |key: &str, what: &str| match parsed.text(key) {
        Some(text) => sizes::parse(&text)
            .filter(|n| *n <= i64::MAX as u64)
            .map(Some)
            .ok_or_else(|| program.fail(&program.version.bad_size(what, &text))),
        None => Ok(None),
    };
    let sparse = size("sparse-size", "buffer size for sparse output")?.unwrap_or(SPARSE_DEFAULT);
    if sparse % SECTOR != 0 || sparse > SPARSE_MAX {
        return Err(program.fail(&format!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of {SECTOR} up to \
             {SPARSE_MAX}. Select 0 to disable sparse detection (fully allocates output)."
        )));
    }
    if let Some(text) = parsed.text("parallel")
        && !text.parse().is_ok_and(|n: u32| (1..=16).contains(&n))
    {
        return Err(program.fail(if program.version.major >= 10 {
            "Invalid number of coroutines specified. Must be between 1 and 16."
        } else {
            "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16"
        }));
    }
    let rate = size("rate-limit", "rate limit")?.unwrap_or(0);
    let (create, compress) = (!parsed.has("no-create"), parsed.has("compress"));
    let rules = [
        (parsed.operands.len() < 2 && !asks_for_help(parsed), "Must specify image file name"),
        (compress && parsed.has("copy-range-offloading"), "Cannot enable copy offloading when -c is used"),
        (parsed.has("target-image-opts") && create, "--target-image-opts requires use of -n flag"),
        (parsed.has("target-is-zero") && create, "--target-is-zero requires use of -n flag"),
        (!create && parsed.has("options"), "-o has no effect when skipping image creation"),
        (
            parsed.has("skip-broken-bitmaps") && !parsed.has("bitmaps"),
            "Use of --skip-broken-bitmaps requires --bitmaps",
        ),
        (parsed.has("bitmaps"), "instar cannot copy bitmaps yet: convert without --bitmaps"),
    ];
    if let Some((_, text)) = rules.iter().find(|(broken, _)| *broken) {
        return Err(program.fail(text));
    }
    super::info::refuse_objects(program, parsed)?;
    let cache = |key: &str, default: &str, what: &str| {
        let name = parsed.text(key).unwrap_or_else(|| default.to_string());
        Cache::by_name(&name).ok_or_else(|| program.fail(&format!("Invalid {what} option: {name}")))
    };
    Ok(Request {
        sparse,
        source_cache: cache("source-cache", "writeback", "source cache")?,
        target_cache: cache("target-cache", "unsafe", "cache")?,
        format: parsed.text("target-format").unwrap_or_else(|| "raw".to_string()),
        rate,
    })
}

fn asks_for_help(parsed: &Parsed) -> bool {
    parsed.all("options").any(|text| matches!(text.to_str(), Some("help" | "?")))
}

/// The last value of an option that names a file, in all of `-o`.
fn file_option(parsed: &Parsed, name: &str) -> Option<String> {
    let all: Vec<String> = parsed.all("options").map(|t| t.to_string_lossy().into_owned()).collect();
    let words = all.join(",").replace(",,", "\0");
    let prefix = format!("{name}=");
    words.split(',').rev().find_map(|word| word.strip_prefix(&prefix)).map(|value| value.replace('\0', ","))
}

/// Targets that are published when all is done: the data file before the image that needs it.
struct Outputs {
    targets: Vec<Target>,
    devices: Vec<Device>,
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let request = check(program, parsed)?;
    if asks_for_help(parsed) {
        return option_help(program, &request);
    }
    let Some((last, sources)) = parsed.operands.split_last() else { return Err(Exit(1)) };
    let mut params = program.params("convert");
    let mut devices = Vec::new();
    let mut images = Vec::new();
    for operand in sources {
        let as_options = parsed.has("image-opts");
        let image = if as_options {
            ImageName::from_options(operand)
        } else {
            ImageName::plain(operand, parsed.text("source-format"))
        };
        let shown = terminal(operand.as_encoded_bytes());
        let image = image.map_err(|e| program.fail(&format!("Could not open '{shown}': {e}")))?;
        images.push(image_params(&image, devices.len() as u64));
        devices.push(program.open_source(&image, request.source_cache, parsed.has("force-share"))?);
    }
    let target = target_name(program, parsed, last)?;
    if let Some(name) = parsed.text("backing").or_else(|| file_option(parsed, "backing_file")) {
        open_backing(program, parsed, &target.path, &name, &request, &mut params, &mut devices)?;
    }
    let mut outputs = Outputs { targets: Vec::new(), devices: Vec::new() };
    let mut map = image_params(&target, 0);
    if target.format.is_none() {
        map.set("format", request.format.as_str());
    }
    let first = devices.len() as u64;
    if let Some(name) = file_option(parsed, "data_file") {
        make(program, parsed, Path::new(&name), &request, &mut outputs)?;
        map.set("data-device", first);
    }
    make(program, parsed, &target.path, &request, &mut outputs)?;
    let index = first + outputs.devices.len() as u64 - 1;
    if let Value::Map(entries) = &mut map {
        entries.retain(|(key, _)| key != "device");
    }
    map.set("device", index).set("existing", parsed.has("no-create")).set("zeroed", parsed.has("target-is-zero"));
    devices.append(&mut outputs.devices);
    params.set("sources", images).set("target", map);
    rest(parsed, &request, &mut params);

    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX) as u32;
    let progress = Progress::new(parsed.has("progress") && !parsed.has("quiet"), request.rate);
    progress.show(0.0);
    let subject = sources.iter().map(|s| s.to_string_lossy()).collect::<Vec<_>>().join(", ");
    let (status, _) = program.run(&params, devices, workers, &Defaults::DATA, &subject, &progress)?;
    if status != 0 {
        return Ok(status);
    }
    let shown = terminal(target.path.as_os_str().as_encoded_bytes());
    for made in outputs.targets {
        made.publish()
            .map_err(|e| program.fail(&format!("{shown}: error while converting {}: {}", request.format, plain(&e))))?;
    }
    progress.end();
    Ok(0)
}

fn target_name(program: &Program, parsed: &Parsed, operand: &OsStr) -> Result<ImageName, Exit> {
    let name = if parsed.has("target-image-opts") {
        ImageName::from_options(operand)
    } else {
        ImageName::plain(operand, None)
    };
    name.map_err(|e| program.fail(&format!("Could not open '{}': {e}", terminal(operand.as_encoded_bytes()))))
}

fn open_backing(
    program: &Program,
    parsed: &Parsed,
    target: &Path,
    name: &str,
    request: &Request,
    params: &mut Value,
    devices: &mut Vec<Device>,
) -> Result<(), Exit> {
    let format = parsed.text("backing-format").or_else(|| file_option(parsed, "backing_fmt"));
    // Relative to the target, as the target will say it.
    let path: PathBuf = target.parent().map_or_else(|| name.into(), |folder| folder.join(name));
    let image = ImageName { written: path.clone().into(), path, format: format.clone(), options: Vec::new() };
    params.set("backing", name);
    if let Some(format) = format {
        params.set("backing-format", format);
    }
    params.set("backing-device", devices.len() as u64);
    params.set("backing-path", image.path.as_os_str().as_encoded_bytes());
    devices.push(program.open_source(&image, request.source_cache, parsed.has("force-share"))?);
    Ok(())
}

/// Makes or opens one output.
fn make(program: &Program, parsed: &Parsed, path: &Path, request: &Request, outputs: &mut Outputs) -> Result<(), Exit> {
    let shown = terminal(path.as_os_str().as_encoded_bytes());
    let (kept, file, fresh) = if parsed.has("no-create") {
        let file = Target::existing(path, request.target_cache).map_err(|error| {
            let text = match error {
                target::Error::Io(e) => format!("Could not open '{shown}': {}", plain(&e)),
                target::Error::Locked(text) => format!("{text}\nIs another process using the image [{shown}]?"),
                target::Error::WrongType => program.version.folder(&shown),
            };
            program.fail(&format!("Could not open '{shown}': {text}"))
        })?;
        (None, file, false)
    } else {
        let (kept, file, fresh) = Target::create(path, request.target_cache).map_err(|error| {
            let text = match error {
                target::Error::Io(e) => format!("Could not create '{shown}': {}", plain(&e)),
                target::Error::Locked(text) => format!("{text}\nIs another process using the image [{shown}]?"),
                target::Error::WrongType => program.version.folder(&shown),
            };
            program.fail(&format!("{shown}: error while converting {}: {text}", request.format))
        })?;
        (Some(kept), file, fresh)
    };
    let growth = program.config.size("limits.output-growth").map_err(|e| program.fail(&e))?;
    // No file of Linux can be longer.
    let mode = Mode::Write { growth_limit_bytes: growth.unwrap_or(i64::MAX as u64) };
    let mut made = device(file, path, mode);
    made.fresh = fresh;
    made.ignore_flush = request.target_cache.ignore_flush;
    outputs.devices.push(made);
    outputs.targets.extend(kept);
    Ok(())
}

/// Parameters that go to the guest as they are.
fn rest(parsed: &Parsed, request: &Request, params: &mut Value) {
    let texts: Vec<Value> = parsed.all("options").map(|t| Value::from(t.as_encoded_bytes())).collect();
    params
        .set("options", texts)
        .set("compress", parsed.has("compress"))
        .set("sparse", request.sparse)
        .set("salvage", parsed.has("salvage"))
        .set("quiet", parsed.has("quiet"));
    if let Some(snapshot) = parsed.text("snapshot") {
        params.set("snapshot", snapshot);
    }
    if let (Some(format), None) = (parsed.text("backing-format"), params.get("backing-format")) {
        params.set("backing-format", format);
    }
}

fn option_help(program: &Program, request: &Request) -> Result<u8, Exit> {
    let mut params = program.params("convert");
    params.set("option-help", true);
    let mut map = Value::map();
    map.set("format", request.format.as_str());
    params.set("target", map);
    let (status, results) =
        program.run(&params, Vec::new(), 1, &Defaults::METADATA, &request.format, &crate::program::Silent)?;
    if status == 0 {
        let lines: String = results
            .list("help")
            .iter()
            .map(|option| {
                let head = format!("  {}=<{}>", option.text("name").unwrap_or(""), option.text("kind").unwrap_or(""));
                format!("{head:<24} - {}\n", option.text("help").unwrap_or(""))
            })
            .collect();
        program.print(&format!("Supported options:\n{lines}"))?;
    }
    Ok(status)
}

/// `-p`, and `-r`: a worker that reports progress is the one that can be made to wait.
struct Progress {
    shown: bool,
    rate: u64,
    started: std::time::Instant,
    last: Mutex<f64>,
}

impl Progress {
    fn new(shown: bool, rate: u64) -> Self {
        Self { shown, rate, started: std::time::Instant::now(), last: Mutex::new(0.0) }
    }

    fn show(&self, percent: f64) {
        if self.shown {
            let mut out = std::io::stdout().lock();
            let _ = write!(out, "    ({percent:.2}/100%)\r").and_then(|()| out.flush());
        }
    }

    fn end(&self) {
        if self.shown {
            self.show(100.0);
            let _ = writeln!(std::io::stdout());
        }
    }
}

impl Observer for Progress {
    fn progress(&self, done: u64, total: u64) {
        const STEP: f64 = 1.0;
        if self.rate > 0 {
            let due = std::time::Duration::from_secs_f64(done as f64 / self.rate as f64);
            std::thread::sleep(due.saturating_sub(self.started.elapsed()));
        }
        let percent = if total == 0 { 0.0 } else { done as f64 * 100.0 / total as f64 };
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if percent >= *last + STEP && percent < 100.0 {
            *last = percent;
            self.show(percent);
        }
    }

    fn log(&self, _level: u32, _text: &[u8]) {}
}
