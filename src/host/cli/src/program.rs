//! What every command shares: the name it was called by, the messages, running the guest.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use instar_abi::ops::{self, Caller, Entries, Environment, FailureKind, Operation, Record, Told};
use instar_abi::record;
use instar_render::escape;
use instar_render::version::{QemuVersion, UsageStyle};
use instar_vmm::policy::Asked;
use instar_vmm::target::{self, Cache, Target, Written};
use instar_vmm::{Device, Failure, Isolation, Job, Limits, Mode, Observer, Outcome, Parts, Policy, locks};

use crate::call::Call;
use crate::config::Config;
use crate::config::settings::by_key;
use crate::getopt::{Parsed, Wrong};
use crate::image_name::ImageName;
use crate::limit;
use crate::refusal;
use crate::room::Room;
use crate::secrets::{self, Secrets};
use crate::{sizes, streams};

/// A command's way out: what it said is said.
#[derive(Debug)]
pub struct Exit(pub u8);

/// The program as it was called.
pub struct Program {
    /// `qemu-img` or `instar`: what messages begin with.
    pub name: &'static str,
    /// The command, once it is known.
    pub command: &'static str,
    /// Whose output.
    pub version: QemuVersion,
    /// The configuration.
    pub config: Config,
    /// What is wrong with it: then only the command for it goes on.
    pub misconfigured: Option<String>,
    /// `--verbose`.
    pub verbose: bool,
    /// `--object secret`, until they are handed to the guest.
    pub secrets: RefCell<Secrets>,
    /// What may still be shown of what the guest has told.
    pub room: Cell<Room>,
    /// What runs in the sandbox instead of instar's own guest.
    pub guest: Option<&'static [u8]>,
    /// Files that the user named, besides the images: images may name them, too.
    pub vouched: RefCell<Vec<PathBuf>>,
    /// The user said `force-share=on` of an image.
    pub force_share: Cell<bool>,
    /// What images named in the run, and what came of it.
    pub asked: RefCell<Vec<Asked>>,
    /// The limit on what files grow by, if it was too little: then an error is about that, whatever the guest makes of it.
    pub outgrown: Cell<Option<u64>>,
    /// What the user can do about a name that was refused.
    pub way_out: RefCell<Option<String>>,
}

/// How long a command may take and how much it may ask for, unless said otherwise: far beyond what any legitimate
/// image needs.
pub struct Defaults {
    /// Processor time.
    pub cpu: Duration,
    /// Wall-clock time.
    pub wall: Duration,
    /// Requests.
    pub requests: u64,
    /// Bytes that are shown of results.
    pub shown: u64,
}

impl Defaults {
    /// Commands that only read metadata.
    pub const METADATA: Self =
        Self { cpu: Duration::from_secs(120), wall: Duration::from_secs(600), requests: 10_000_000, shown: 32 << 20 };
    /// Commands that move data.
    pub const DATA: Self = Self {
        cpu: Duration::from_secs(30 * 86_400),
        wall: Duration::from_secs(30 * 86_400),
        requests: 1 << 40,
        shown: 32 << 20,
    };
    /// `map`: a line for each extent.
    pub const MAP: Self = Self { shown: 1 << 30, ..Self::DATA };
}

/// Formats whose images can be several files. Only with these a guest may ask for any.
const OF_SEVERAL_FILES: [&str; 1] = ["vmdk"];

const READ_ONLY: &str = "The device is not writable: Permission denied";
/// What a file holds is the disk's bytes, and no more.
const OF_BYTES: [&str; 5] = ["raw", "luks", "file", "host_device", "host_cdrom"];
/// Drivers of devices, which make none.
const OF_DEVICES: [&str; 2] = ["host_device", "host_cdrom"];

const GUEST_MEMORY: u64 = 64 << 20;
const RESULT_BYTES: u64 = 8 << 20;
const MESSAGE_BYTES: u64 = 1 << 20;

impl Program {
    /// Whether everything has to look as the stock tool's.
    pub fn is_stock(&self) -> bool {
        self.name == "qemu-img"
    }

    /// A message on standard error; the lines after the first as they are.
    pub fn say(&self, message: &str) {
        streams::tell(&format!("{}: {message}\n", self.name));
    }

    /// A message, and exit status 1.
    pub fn fail(&self, message: &str) -> Exit {
        self.say(message);
        Exit(1)
    }

    /// The line that says where help is to be had; `command` empty before there is one.
    fn hint(&self) {
        let target = match self.version.usage() {
            UsageStyle::General => self.name.to_string(),
            _ if self.command.is_empty() => self.name.to_string(),
            _ => format!("{} {}", self.name, self.command),
        };
        let end = if self.version.usage() == UsageStyle::CommandInfo { "info" } else { "information" };
        streams::tell(&format!("Try '{target} --help' for more {end}\n"));
    }

    /// Arguments that make no sense.
    pub fn usage(&self, message: &str) -> Exit {
        self.say(message);
        self.hint();
        Exit(1)
    }

    /// Options that do not parse.
    pub fn wrong(&self, wrong: &Wrong) -> Exit {
        if self.version.usage() == UsageStyle::General {
            return self.usage(&match wrong {
                Wrong::Missing(option) => format!("missing argument for option '{option}'"),
                Wrong::Unknown(typed) | Wrong::Ambiguous(typed, _) | Wrong::Unwanted(_, typed) => {
                    format!("unrecognized option '{typed}'")
                }
                Wrong::NotText(option) => not_text(option),
            });
        }
        let text = match wrong {
            Wrong::Unknown(typed) if typed.starts_with("--") => format!("unrecognized option '{typed}'"),
            Wrong::Unknown(typed) => format!("invalid option -- '{}'", typed.trim_start_matches('-')),
            Wrong::Missing(option) if option.starts_with("--") => format!("option '{option}' requires an argument"),
            Wrong::Missing(option) => format!("option requires an argument -- '{}'", option.trim_start_matches('-')),
            Wrong::Unwanted(option, _) => format!("option '{option}' doesn't allow an argument"),
            Wrong::NotText(option) => not_text(option),
            Wrong::Ambiguous(typed, names) => {
                let names: Vec<String> = names.iter().map(|n| format!("'--{n}'")).collect();
                format!("option '{typed}' is ambiguous; possibilities: {}", names.join(" "))
            }
        };
        match self.command {
            "" => self.say(&text),
            command => streams::tell(&format!("{} {command}: {text}\n", self.name)),
        }
        self.hint();
        Exit(1)
    }

    /// Standard output, all at once.
    pub fn print(&self, text: &str) -> Result<(), Exit> {
        streams::show(text).map_err(|error| self.not_shown(&error))
    }

    /// Standard output cannot be written to. A reader that went away need not be told.
    pub fn not_shown(&self, error: &io::Error) -> Exit {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Exit(1);
        }
        self.fail(&format!("cannot write to standard output: {}", plain(error)))
    }

    /// Opens an image to be read.
    pub fn open_source(&self, image: &ImageName, cache: Cache, share: bool) -> Result<Device, Exit> {
        self.try_open(image, cache, share).map_err(|text| {
            let written = escape::terminal(image.written.as_encoded_bytes());
            self.fail(&format!("Could not open '{written}': {text}"))
        })
    }

    /// The same; an error is a text, without the name that the user wrote.
    pub fn try_open(&self, image: &ImageName, cache: Cache, share: bool) -> Result<Device, String> {
        self.warn_of_empty_backing(image);
        let shown = escape::terminal(image.path.as_os_str().as_encoded_bytes());
        if let (Some(text), false) = (&image.wrong, self.command == "info") {
            return Err(text.clone());
        }
        let (cache, share) = (image.ways.cache(cache)?, share || image.ways.share());
        if image.ways.force_share {
            self.force_share.set(true);
        }
        let file = target::open(&image.path, cache).map_err(|e| format!("Could not open '{shown}': {}", plain(&e)))?;
        if !is_data(&file) {
            return Err(self.version.folder(&shown));
        }
        // Into a copy goes one state of an image, of whatever format.
        let bears_writers = self.command != "convert" && image.format.as_deref().is_some_and(|f| OF_BYTES.contains(&f));
        let contended = match (share, bears_writers) {
            (true, _) => Ok(false),
            (false, true) => locks::lock_to_share(&file).map(|()| false),
            (false, false) => locks::lock_beside_writers(&file),
        };
        let contended =
            contended.map_err(|locked| format!("{locked}\nIs another process using the image [{shown}]?"))?;
        let opened = Device { contended, ..device(file, &image.path, Mode::Read) };
        match self.wrong_driver(image.protocol.as_deref(), &opened, &image.path) {
            Some(text) => Err(text),
            None => Ok(opened),
        }
    }

    /// What is said of a file that is not of the kind that the driver is for.
    pub fn wrong_driver(&self, driver: Option<&str>, device: &Device, path: &Path) -> Option<String> {
        let shown = escape::terminal(path.as_os_str().as_encoded_bytes());
        let driver = driver.filter(|name| OF_DEVICES.contains(name) && !device.is_block())?;
        Some(not_a_device(driver, &shown))
    }

    /// How a file that is written may grow.
    pub fn may_write(&self) -> Result<Mode, Exit> {
        let growth = self.config.size("limits.output-growth").map_err(|e| self.fail(&e))?;
        // No file of Linux can be longer.
        Ok(Mode::Write { growth_limit_bytes: growth.unwrap_or(i64::MAX as u64) })
    }

    /// Makes the file that will be `path`, to be published when it is complete. `need`: bytes that will be written, as far as
    /// they are known. An inner error is a text.
    pub fn new_file(&self, path: &Path, cache: Cache, need: u64) -> Result<Result<(Target, Device), String>, Exit> {
        let shown = escape::terminal(path.as_os_str().as_encoded_bytes());
        let mode = self.may_write()?;
        Ok(match Target::create(path, cache, need) {
            Ok((target, Written { file, fresh, old })) => {
                if let (true, Err(error)) = (fresh, cache.hints.apply(&file)) {
                    self.say(&format!("warning: Failed to set extent size hint: {}", plain(&error)));
                }
                Ok((target, Device { fresh, old, ignore_flush: cache.ignore_flush, ..device(file, path, mode) }))
            }
            Err(target::Error::Io(e)) => Err(format!("Could not create '{shown}': {}", plain(&e))),
            Err(target::Error::Locked(text)) => Err(format!("{text}\nIs another process using the image [{shown}]?")),
            Err(target::Error::WrongType) => Err(self.version.folder(&shown)),
            Err(target::Error::ReadOnlyDevice) => Err(format!(
                "Protocol driver 'host_device' does not support creating new images, so an existing image must be selected \
                 as the target; however, opening the given target as an existing image failed: {READ_ONLY}"
            )),
        })
    }

    /// The same for an image of that format, which may want further files.
    pub fn new_image(
        &self,
        path: &Path,
        cache: Cache,
        format: &str,
        need: u64,
    ) -> Result<Result<(Target, Device), String>, Exit> {
        if OF_DEVICES.contains(&format) && !path.metadata().is_ok_and(|meta| meta.file_type().is_block_device()) {
            return Ok(Err(no_device(path, format)));
        }
        let mut made = self.new_file(path, cache, need)?;
        if let (Ok((target, device)), true) = (&mut made, OF_SEVERAL_FILES.contains(&format)) {
            device.maker = target.maker();
        }
        Ok(made)
    }

    /// Opens an image to be changed in place, with the parts that its format has.
    pub fn open_in_place(&self, image: &ImageName, cache: Cache) -> Result<Device, Exit> {
        self.check_writable(image)?;
        self.warn_of_empty_backing(image);
        let written = escape::terminal(image.written.as_encoded_bytes());
        let cache = match &image.wrong {
            Some(text) => Err(text.clone()),
            None => image.ways.cache(cache),
        };
        let opened = match cache {
            Ok(cache) => self.existing_file(&image.path, cache)?,
            Err(text) => Err(text),
        };
        let mut device = opened.map_err(|text| self.fail(&format!("Could not open '{written}': {text}")))?;
        device.parts = Parts::of_format(image.format.as_deref());
        Ok(device)
    }

    /// Refuses to change an image that lies in another image.
    pub fn check_writable(&self, image: &ImageName) -> Result<(), Exit> {
        let written = escape::terminal(image.written.as_encoded_bytes());
        if let Some(text) = image.ways.not_written() {
            return Err(self.fail(&format!("Could not open '{written}': {text}")));
        }
        if image.below.is_empty() {
            return Ok(());
        }
        Err(self.fail(&format!("Could not open '{written}': instar cannot write through one driver into another")))
    }

    fn warn_of_empty_backing(&self, image: &ImageName) {
        if image.empty_backing {
            self.say("warning: Use of \"backing\": \"\" is deprecated; use \"backing\": null instead");
        }
    }

    /// Opens a file to be changed in place, alone. An inner error is a text.
    pub fn existing_file(&self, path: &Path, cache: Cache) -> Result<Result<Device, String>, Exit> {
        let shown = escape::terminal(path.as_os_str().as_encoded_bytes());
        let mode = self.may_write()?;
        Ok(match Target::existing(path, cache) {
            Ok(file) => Ok(Device { ignore_flush: cache.ignore_flush, ..device(file, path, mode) }),
            Err(target::Error::Io(e)) => Err(format!("Could not open '{shown}': {}", plain(&e))),
            Err(target::Error::Locked(text)) => Err(format!("{text}\nIs another process using the image [{shown}]?")),
            Err(target::Error::WrongType) => Err(self.version.folder(&shown)),
            Err(target::Error::ReadOnlyDevice) => Err(READ_ONLY.to_string()),
        })
    }

    /// A number of bytes (or of what `what` says) within bounds.
    pub fn size(&self, text: &str, what: &str, bounds: RangeInclusive<u64>) -> Result<u64, Exit> {
        let below = self.version.reads_negative_sizes() && sizes::is_negative(text);
        match sizes::parse(text) {
            Some(n) if bounds.contains(&n) => Ok(n),
            None if !below && !sizes::is_out_of_range(text) => Err(self.fail(&self.version.bad_size(what, text))),
            _ => {
                let (least, most) = (bounds.start(), bounds.end());
                Err(self.fail(&format!("Invalid {what} specified. Must be between {least} and {most}.")))
            }
        }
    }

    /// `-t` and `-T`: the mode that option `key` names.
    pub fn cache(&self, parsed: &Parsed, key: &str, what: &str, default: &str) -> Result<Cache, Exit> {
        let name = parsed.text(key).unwrap_or_else(|| default.to_string());
        Cache::by_name(&name).ok_or_else(|| self.fail(&format!("Invalid {what} option: {name}")))
    }

    /// Runs the operation and reads what came of it.
    pub fn run<O: Operation>(
        &self,
        params: O,
        call: Call,
        workers: u32,
        defaults: &Defaults,
        subject: &str,
        observer: &dyn Observer,
    ) -> Result<(u8, O::Results), Exit> {
        let (outcome, mut results) =
            self.run_guest(self.request(params), call, workers, defaults, subject, observer)?;
        let status = outcome.status;
        let read = Told::take(&mut results).and_then(|told| Ok((told, O::Results::from_entries(results)?)));
        let (told, results) =
            read.map_err(|wrong| self.failed(&Failure::Guest(format!("its results do not fit: {wrong}")), subject))?;
        self.show_told(&told, outcome, subject)?;
        // Whatever it says besides: what has failed is not published.
        Ok((if told.error.is_some() { status.max(1) } else { status }, results))
    }

    /// What the guest is told of an operation.
    pub fn request<O: Operation>(&self, params: O) -> Entries {
        let caller = Caller {
            operation: O::NAME.to_string(),
            program: Some(self.name.to_string()),
            version_major: Some(self.version.major),
            version_minor: Some(self.version.minor),
        };
        let mut request = caller.into_entries();
        params.put(&mut request);
        request
    }

    fn run_guest(
        &self,
        request: Entries,
        call: Call,
        workers: u32,
        defaults: &Defaults,
        subject: &str,
        observer: &dyn Observer,
    ) -> Result<(Outcome, Entries), Exit> {
        let limits = self.limits(defaults).map_err(|e| self.fail(&e))?;
        self.room.set(Room::new(&limits));
        let isolation = self.config.isolation().map_err(|e| self.fail(&e))?;
        let Call { devices, force_share, .. } = call;
        if let Some((written, read)) = instar_vmm::medium::written_and_read(&devices) {
            let [written, read] = [written, read].map(|index| devices[index].path.as_os_str().as_encoded_bytes());
            let [written, read] = [written, read].map(escape::terminal);
            return Err(
                self.fail(&format!("'{written}' cannot be written: it is the same disk as '{read}', which is read"))
            );
        }
        let force_share = force_share || self.force_share.take();
        let policy = Policy { force_share, vouched: self.vouched.take(), ..self.policy()? };
        let mut params = ops::stream(&request);
        let stock = self.is_stock() && !self.config.flag("extensions").unwrap_or(false);
        let secrets = self.secrets.borrow_mut().hand_over();
        // A key is derived by all of them together.
        let workers = if secrets.is_empty() { workers } else { self::workers() };
        let mut kept = Environment { stock, secrets }.into_entries();
        params.extend(ops::stream(&kept));
        kept.iter_mut().for_each(|(_, value)| secrets::wipe(value));
        instar_vmm::clock::prepare();
        let lock_down = !cfg!(debug_assertions) || std::env::var_os("INSTAR_NO_LOCKDOWN").is_none();
        let guest = self.guest;
        let last_words = Some(limit::last_words(self, subject));
        let job = Job { guest, isolation, workers, devices, params, policy, limits, observer, lock_down, last_words };
        let mut outcome = instar_vmm::run(job).map_err(|failure| self.failed(&failure, subject))?;
        if self.verbose {
            let place = if outcome.isolation == Isolation::Kvm { "a virtual machine (KVM)" } else { "a bare process" };
            self.say(&format!("the image was read in {place}"));
            if let Some(why) = &outcome.fallback {
                self.say(&format!("not in a virtual machine: {why}"));
            }
            if !outcome.landlock {
                self.say("the kernel has no Landlock: what may be opened is bounded by instar alone");
            }
        }
        let results = record::decode(&std::mem::take(&mut outcome.results))
            .map_err(|_| self.failed(&Failure::Guest("its results do not decode".into()), subject))?;
        Ok((outcome, ops::entries(results)))
    }

    /// What every operation may tell, before its results are shown.
    fn show_told(&self, told: &Told, outcome: Outcome, subject: &str) -> Result<(), Exit> {
        self.room.set(self.room.get().after_messages(outcome.message_bytes));
        for name in &told.guessed_raw {
            let name = self.fit(name, escape::terminal, subject)?;
            let text = format!(
                "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         Automatically \
                 detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
                 Specify the 'raw' format explicitly to remove the restrictions.\n"
            );
            self.tell(&text, subject)?;
        }
        for warning in &told.warnings {
            self.tell(&format!("{}: warning: {}\n", self.name, self.fit(warning, escape::lines, subject)?), subject)?;
        }
        self.outgrown.set(outcome.growth_refused);
        *self.way_out.borrow_mut() = refusal::way_out(&outcome.asked, &self.config);
        *self.asked.borrow_mut() = outcome.asked;
        told.error.as_ref().map_or(Ok(()), |error| self.report(error, subject))
    }

    /// What the configuration says of names in images.
    pub fn policy(&self) -> Result<Policy, Exit> {
        let deny_all = self.config.flag("backing.none").map_err(|e| self.fail(&e))?;
        Ok(Policy { deny_all, allowed: self.config.allowed(), ..Policy::default() })
    }

    /// The user named this file: an image of the run may name it, too.
    pub fn vouch(&self, path: &Path) {
        self.vouched.borrow_mut().push(path.to_path_buf());
    }

    /// Prints an error record. The stock tool would not have refused a name, so there is none of its texts to be kept: what
    /// can be done about that is told under both names.
    pub fn report(&self, error: &ops::Failure, subject: &str) -> Result<(), Exit> {
        if let Some(failure) = self.outgrown.get().and_then(limit::of_growth) {
            let Exit(_) = self.failed(&failure, subject);
            return Ok(());
        }
        if let Some(earlier) = &error.earlier {
            self.tell(&format!("{}: {}\n", self.name, self.fit(earlier, escape::lines, subject)?), subject)?;
        }
        let text = self.fit(&error.message, escape::lines, subject)?;
        let end = if self.version.ends_line(&text) { "\n" } else { "" };
        self.tell(&format!("{}: {text}{end}", self.name), subject)?;
        let way_out = self.way_out.borrow();
        match (&error.hint, way_out.as_deref()) {
            (Some(_), Some(way_out)) if error.kind == FailureKind::Refused => {
                self.tell(&format!("{}: {way_out}\n", self.name), subject)?;
            }
            (Some(hint), _) if !self.is_stock() => {
                self.tell(&format!("{}: {}\n", self.name, self.fit(hint, escape::lines, subject)?), subject)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The guest did not finish, or has told too much.
    pub fn failed(&self, failure: &Failure, subject: &str) -> Exit {
        let subject = escape::terminal(subject.as_bytes());
        self.fail(&match failure {
            Failure::NoKvm(why) => {
                let source = by_key("isolation").map(|setting| limit::source(setting, "kvm", &self.config));
                format!("no virtual machine, but {} asks for one: {why}", source.unwrap_or_default())
            }
            Failure::Guest(what) => format!(
                "internal error in the sandbox while reading '{subject}': {}; the host is unaffected",
                escape::terminal(what.as_bytes())
            ),
            Failure::Limit { name, flag, value } => limit::words(&subject, (name, flag, value), &self.config),
            Failure::Host(what) => format!("cannot set the sandbox up: {what}"),
        })
    }

    fn limits(&self, defaults: &Defaults) -> Result<Limits, String> {
        let results = self.config.size("limits.results")?;
        Ok(Limits {
            cpu: Some(self.config.seconds("limits.cpu-seconds")?.unwrap_or(defaults.cpu)),
            wall: Some(self.config.seconds("limits.seconds")?.unwrap_or(defaults.wall)),
            guest_memory_bytes: self.config.size("limits.guest-memory")?.unwrap_or(GUEST_MEMORY),
            requests: Some(self.config.number("limits.requests")?.unwrap_or(defaults.requests)),
            result_bytes: results.unwrap_or(RESULT_BYTES),
            shown_bytes: results.unwrap_or(defaults.shown),
            message_bytes: self.config.size("limits.messages")?.unwrap_or(MESSAGE_BYTES),
        })
    }
}

fn not_text(option: &str) -> String {
    format!("the argument of option '{option}' is not UTF-8, and would be taken for another one")
}

/// How many workers move data: more do not pay.
pub fn workers() -> u32 {
    const MOST: usize = 8;
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST) as u32
}

/// A device for a file opened by the name `path`.
pub fn device(file: File, path: &Path, mode: Mode) -> Device {
    let direct = target::is_direct(&file);
    Device { direct, ..Device::new(file, target::absolute(path), mode) }
}

/// Bytes that the devices' files take on disk.
pub fn allocated(devices: &[Device]) -> u64 {
    use std::os::unix::fs::MetadataExt;
    const SECTOR: u64 = 512;
    devices.iter().filter_map(|device| device.file.metadata().ok()).map(|meta| meta.blocks() * SECTOR).sum()
}

/// Why there can be no target of a driver of devices.
fn no_device(path: &Path, format: &str) -> String {
    let shown = escape::terminal(path.as_os_str().as_encoded_bytes());
    let why = match path.metadata() {
        Ok(_) => not_a_device(format, &shown),
        Err(error) => format!("Could not open '{shown}': {}", plain(&error)),
    };
    format!(
        "Protocol driver '{format}' does not support creating new images, so an existing image must be selected as the \
         target; however, opening the given target as an existing image failed: {why}"
    )
}

fn not_a_device(driver: &str, shown: &str) -> String {
    format!("'{driver}' driver requires '{shown}' to be either a character or block device")
}

/// A regular file or a block device.
fn is_data(file: &File) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() || meta.file_type().is_block_device())
}

/// The system's text for an error, without Rust's number behind it.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

/// Nobody is told.
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _done: u64, _total: u64) {}
    fn log(&self, _level: u32, _text: &[u8]) -> u64 {
        0
    }
}
