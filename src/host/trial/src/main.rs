//! `sandbox-trial --isolation kvm|process --case NAME --dir DIR`: runs the hostile guest's case NAME and prints
//! in one line what came of it. `--seconds N` is the wall-clock limit (60 unless told). For tests; never installed.
//!
//! DIR holds a file `read-only` (device 0) and a file `writable` (device 1, whose image may have a data file). Device 2 is
//! a new file there, which is never published. Together they may grow by 1 MiB.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use instar_abi::record::{self, Value};
use instar_vmm::target::{Cache, Target};
use instar_vmm::{Device, Failure, Isolation, Job, Limits, Mode, Observer, Outcome, Parts, Policy};

struct Silent;

impl Observer for Silent {
    fn progress(&self, _done: u64, _total: u64) {}
    fn log(&self, _level: u32, text: &[u8]) -> u64 {
        text.len() as u64
    }
}

struct Arguments {
    isolation: Isolation,
    case: String,
    folder: PathBuf,
    wall: Duration,
}

fn arguments() -> Option<Arguments> {
    let (mut isolation, mut case, mut folder) = (None, None, None);
    let mut wall = Duration::from_secs(60);
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next()?;
        match (flag.as_str(), value.as_str()) {
            ("--isolation", "kvm") => isolation = Some(Isolation::Kvm),
            ("--isolation", "process") => isolation = Some(Isolation::Process),
            ("--case", _) => case = Some(value),
            ("--dir", _) => folder = Some(PathBuf::from(value)),
            ("--seconds", _) => wall = Duration::from_secs(value.parse().ok()?),
            _ => return None,
        }
    }
    Some(Arguments { isolation: isolation?, case: case?, folder: folder?, wall })
}

fn device(file: File, path: &Path, mode: Mode) -> Device {
    Device::new(file, path.to_path_buf(), mode)
}

fn devices(folder: &Path) -> std::io::Result<(Target, Vec<Device>)> {
    const MODE: Mode = Mode::Write { growth_limit_bytes: 1 << 20 };
    let [read_only, writable, new] = ["read-only", "writable", "new"].map(|name| folder.join(name));
    let (target, made) =
        Target::create(&new, Cache::default(), 0).map_err(|error| std::io::Error::other(format!("{error:?}")))?;
    let opened = OpenOptions::new().read(true).write(true).open(&writable)?;
    let devices = vec![
        device(File::open(&read_only)?, &read_only, Mode::Read),
        Device { parts: Parts::DATA_FILE, ..device(opened, &writable, MODE) },
        Device { fresh: made.fresh, maker: target.maker(), old: made.old, ..device(made.file, &new, MODE) },
    ];
    Ok((target, devices))
}

/// `outcome=KIND ...`
fn describe(result: Result<Outcome, Failure>) -> String {
    match result {
        Ok(outcome) => {
            let answer = match record::decode(&outcome.results) {
                Ok(results) => results.u64("status").map_or("none".to_string(), |s| s.to_string()),
                Err(error) => format!("{error:?}"),
            };
            format!("outcome=finished exit={} answer={answer}", outcome.status)
        }
        Err(Failure::Guest(text)) => format!("outcome=guest text={text:?}"),
        Err(Failure::Limit { name, flag, value }) => format!("outcome=limit text={name} ({value}; {flag})"),
        Err(Failure::NoKvm(text)) => format!("outcome=no-kvm text={text:?}"),
        Err(Failure::Host(text)) => format!("outcome=host text={text:?}"),
    }
}

fn main() -> ExitCode {
    let Some(Arguments { isolation, case, folder, wall }) = arguments() else {
        eprintln!("usage: sandbox-trial --isolation kvm|process --case NAME --dir DIR [--seconds N]");
        return ExitCode::FAILURE;
    };
    let (target, devices) = match devices(&folder) {
        Ok(both) => both,
        Err(error) => {
            eprintln!("sandbox-trial: {}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    };
    let mut params = Vec::new();
    record::encode(&mut params, "case", &Value::from(case.as_str()));
    let result = instar_vmm::run(Job {
        guest: Some(instar_trial::GUEST),
        isolation,
        workers: 2,
        devices,
        params,
        policy: Policy::default(),
        limits: Limits {
            cpu: Some(Duration::from_secs(1)),
            wall: Some(wall),
            // Enough for both workers to take part in what is done by all.
            guest_memory_bytes: 64 << 20,
            requests: Some(100_000),
            result_bytes: 1 << 20,
            shown_bytes: 1 << 20,
            message_bytes: 1 << 20,
        },
        observer: &Silent,
        lock_down: true,
        last_words: None,
    });
    drop(target);
    // Nobody is left, neither running nor a zombie.
    let left = match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
        Err(rustix::io::Errno::CHILD) => "",
        _ => " left a child behind",
    };
    println!("case={case} isolation={isolation:?} {}{left}", describe(result));
    ExitCode::SUCCESS
}
