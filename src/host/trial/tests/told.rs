//! What the whole program says where a hostile guest runs in its sandbox, in both backends: little, with little memory, in
//! little time, and an error of its own.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// More than a loaded machine needs, and a debug build.
const PATIENCE: Duration = Duration::from_secs(60);

struct Case {
    name: &'static str,
    command: &'static [&'static str],
    status: i32,
    /// Standard error, or the end of it.
    says: &'static str,
    /// At most so many bytes on standard output, and on standard error.
    shown: u64,
    told: u64,
}

const RESULTS: &str = "the limit on size of the results was reached (33554432 bytes); --max-results raises it\n";
const MESSAGES: &str = "the limit on length of the messages was reached (1048576 bytes); --max-messages raises it\n";
const DECODE: &str = "its results do not decode; the host is unaffected\n";
const FIT: &str = "its results do not fit: 'filename' is missing; the host is unaffected\n";
const SHORT: u64 = KIB;
/// Of the memory that a run takes: the guest's 64 MiB, the results and their tree.
const MEMORY: u64 = 160 * MIB;

const CASES: &[Case] = &[
    Case { name: "tell-nothing", command: &["info"], status: 1, says: FIT, shown: 0, told: SHORT },
    Case { name: "tell-images", command: &["info"], status: 0, says: "", shown: 32 * MIB, told: 0 },
    Case { name: "tell-images", command: &["info", "--output=json"], status: 0, says: "", shown: 32 * MIB, told: 0 },
    Case { name: "tell-elements", command: &["info"], status: 1, says: DECODE, shown: 0, told: SHORT },
    Case { name: "tell-warnings", command: &["info"], status: 1, says: MESSAGES, shown: 0, told: MIB + SHORT },
    Case { name: "tell-long-warning", command: &["info"], status: 1, says: MESSAGES, shown: 0, told: SHORT },
    Case { name: "tell-paths", command: &["info"], status: 1, says: RESULTS, shown: 0, told: SHORT },
    Case { name: "tell-escapes", command: &["info", "--output=json"], status: 1, says: RESULTS, shown: 0, told: SHORT },
    Case {
        name: "tell-lines",
        command: &["check"],
        status: 1,
        says: MESSAGES,
        shown: 0,
        told: MIB + 256 * KIB + SHORT,
    },
    Case {
        name: "tell-lines",
        command: &["convert", "-O", "raw", "{}", "out"],
        status: 1,
        says: MESSAGES,
        shown: 0,
        told: MIB + 256 * KIB + SHORT,
    },
    Case {
        name: "tell-no-lines",
        command: &["check", "--max-messages", "10k"],
        status: 1,
        says: "the limit on length of the messages was reached (10240 bytes); --max-messages raises it\n",
        shown: 0,
        told: SHORT,
    },
    Case {
        name: "tell-map-names",
        command: &["map", "--max-results", "16M"],
        status: 1,
        says: "the limit on size of the results was reached (16777216 bytes); --max-results raises it\n",
        // One piece of 2048 records more, and a name of 4096 characters that are four each.
        shown: (16 + 33) * MIB,
        told: SHORT,
    },
    Case {
        name: "tell-progress",
        command: &["convert", "-p", "--max-requests", "20000", "-O", "raw", "{}", "out"],
        status: 1,
        says: "the limit on number of requests was reached (20000); --max-requests raises it\n",
        shown: 101 * 20,
        told: SHORT,
    },
    Case {
        name: "reads",
        command: &["info", "--max-seconds", "1"],
        status: 1,
        says: "the limit on wall-clock time was reached (1 seconds); --max-seconds raises it\n",
        shown: 0,
        told: SHORT,
    },
];

/// A folder of its own for a case.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Exit status and the largest resident memory of the program, in bytes.
#[allow(clippy::zombie_processes, reason = "wait4 waits for it, and tells more")]
fn run(command: &mut Command) -> (ExitStatus, u64) {
    let child = command.spawn().expect("the program starts");
    let pid = libc::pid_t::try_from(child.id()).expect("a process id");
    let mut status = 0;
    // SAFETY: plain numbers, for which zeroes are good.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: our own child, which nobody else waits for; valid pointers.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert_eq!(waited, pid);
    (ExitStatus::from_raw(status), usage.ru_maxrss.unsigned_abs() * KIB)
}

fn check(isolation: &str, case: &Case) -> Vec<String> {
    let name = format!("instar-told-{}-{isolation}-{}-{}", std::process::id(), case.name, case.command.len());
    let folder = Folder(std::env::temp_dir().join(name));
    fs::create_dir_all(&folder.0).expect("a temporary folder");
    let image = format!("hostile {}\n", case.name);
    fs::write(folder.0.join("evil"), image).expect("a temporary file");
    File::options().write(true).open(folder.0.join("evil")).and_then(|f| f.set_len(64 * MIB)).expect("room");
    let stream = |name: &str| File::create(folder.0.join(name)).expect("a temporary file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostile-img"));
    command.current_dir(&folder.0).env("INSTAR_CONFIG", "").env("LC_ALL", "C");
    command.args(["--isolation", isolation]).stdout(stream("1")).stderr(stream("2"));
    let mut named = false;
    for word in case.command {
        named |= *word == "{}";
        command.arg(if *word == "{}" { "evil" } else { word });
    }
    if !named {
        command.arg("evil");
    }
    let started = Instant::now();
    let (status, memory) = run(&mut command);
    let took = started.elapsed();
    let length = |name: &str| fs::metadata(folder.0.join(name)).map_or(u64::MAX, |meta| meta.len());
    let told = fs::read(folder.0.join("2")).unwrap_or_default();
    let told = String::from_utf8_lossy(&told);
    let (told_bytes, shown) = (length("2"), length("1"));
    println!("{isolation} {}: {status}, {shown} and {told_bytes} bytes, {} KiB, {took:?}", case.name, memory / KIB);
    let end: String = told.chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
    let wrong = [
        (status.code() != Some(case.status), format!("{status}: {end}")),
        (!told.ends_with(case.says), format!("it says {end:?}")),
        (shown > case.shown, format!("{shown} bytes on standard output")),
        (told_bytes > case.told, format!("{told_bytes} bytes on standard error")),
        (memory > MEMORY, format!("{memory} bytes of memory")),
        (took > PATIENCE, format!("it took {took:?}")),
        (folder.0.join("out").exists(), "it made a target".to_string()),
    ];
    let wrong = wrong.into_iter().filter(|(is, _)| *is);
    wrong.map(|(_, text)| format!("{isolation} {} {:?}: {text}", case.name, case.command)).collect()
}

fn check_all(isolation: &str) {
    let wrong: Vec<String> = CASES.iter().flat_map(|case| check(isolation, case)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn little_is_said_for_a_guest_in_a_process() {
    check_all("process");
}

#[test]
fn little_is_said_for_a_guest_in_a_virtual_machine() {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        println!("skipped: /dev/kvm: {error}");
        return;
    }
    check_all("kvm");
}
