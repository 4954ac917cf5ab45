//! Running the guest: its parameters, its limits, and what is made of its end.

use std::path::Path;
use std::time::Duration;

use instar_abi::ops::{self, Caller, Entries, Environment, FailureKind, Operation, Record, Told};
use instar_abi::record;
use instar_render::escape;
use instar_vmm::{Failure, Isolation, Job, Limits, Observer, Outcome, Policy};

use crate::call::Call;
use crate::config::settings::by_key;
use crate::hints;
use crate::limit;
use crate::program::{Exit, Program};
use crate::refusal;
use crate::room::Room;
use crate::secrets;
use crate::workers::guest_memory;

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

const RESULT_BYTES: u64 = 8 << 20;
const MESSAGE_BYTES: u64 = 1 << 20;

impl Program {
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
        let own = call.devices.len();
        let (outcome, mut results) =
            self.run_guest(self.request(params), call, workers, defaults, subject, observer)?;
        let status = outcome.status;
        let read = Told::take(&mut results).and_then(|told| Ok((told, O::Results::from_entries(results)?)));
        let (told, results) =
            read.map_err(|wrong| self.failed(&Failure::Guest(format!("its results do not fit: {wrong}")), subject))?;
        self.show_told(&told, outcome, own, subject)?;
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
        // A key is derived by all of them together.
        let workers = if self.secrets.borrow().is_empty() { workers } else { self.workers() };
        let workers = self.worth_starting(workers, &call.devices);
        let limits = self.limits(defaults, workers).map_err(|e| self.fail(&e))?;
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
    fn show_told(&self, told: &Told, outcome: Outcome, own: usize, subject: &str) -> Result<(), Exit> {
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
        // The file systems are asked only where something failed.
        *self.full.borrow_mut() = (outcome.status != 0).then(|| hints::full(&outcome.devices, own)).flatten();
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
                self.tell(&format!("{}: hint: {way_out}\n", self.name), subject)?;
            }
            (theirs, _) if !self.is_stock() => {
                let theirs = theirs.as_ref().map(|hint| self.fit(hint, escape::lines, subject)).transpose()?;
                if let (false, Some(hint)) = (self.advise(&text, theirs.as_deref()), theirs) {
                    self.tell(&format!("{}: hint: {hint}\n", self.name), subject)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The guest did not finish, or has told too much.
    pub fn failed(&self, failure: &Failure, subject: &str) -> Exit {
        let subject = escape::terminal(subject.as_bytes());
        if let (Failure::Limit { name, flag, value }, Some(report)) = (failure, &self.report) {
            report.limit(name, flag, value);
        }
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

    fn limits(&self, defaults: &Defaults, workers: u32) -> Result<Limits, String> {
        let results = self.config.size("limits.results")?;
        Ok(Limits {
            cpu: Some(self.config.seconds("limits.cpu-seconds")?.unwrap_or(defaults.cpu)),
            wall: Some(self.config.seconds("limits.seconds")?.unwrap_or(defaults.wall)),
            guest_memory_bytes: self.config.size("limits.guest-memory")?.unwrap_or_else(|| guest_memory(workers)),
            requests: Some(self.config.number("limits.requests")?.unwrap_or(defaults.requests)),
            result_bytes: results.unwrap_or(RESULT_BYTES),
            shown_bytes: results.unwrap_or(defaults.shown),
            message_bytes: self.config.size("limits.messages")?.unwrap_or(MESSAGE_BYTES),
        })
    }
}

/// Nobody is told.
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _done: u64, _total: u64) {}
    fn log(&self, _level: u32, _text: &[u8]) -> u64 {
        0
    }
}
