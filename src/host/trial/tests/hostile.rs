//! Every attack of the hostile guest, in both backends: each ends in an error of its own, in time, and no file of
//! the host is changed but the one that may be.

mod old_kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// More than a loaded machine needs for the second of processor time that a case may take.
const PATIENCE: Duration = Duration::from_secs(60);
const GROWTH_LIMIT: u64 = 1 << 20;

/// How a case has to end.
enum End {
    /// It faulted: with these words of the KVM backend, and of the process backend.
    Fault(&'static str, &'static str),
    /// It broke the protocol, or said that it panicked: these words.
    Guest(&'static str),
    /// A limit of this name.
    Limit(&'static str),
    /// It came to an end of its own and told the host's answer (a number of `instar_abi::ring::Status`).
    Answer(u32),
    /// It came to an end of its own with this exit status.
    Exit(u8),
}

const PROCESSOR: &str = "it did what its processor forbids";
const MEMORY: &str = "it touched memory that it may not";
const CALL: &str = "it made a system call that it has no right to";

const CASES: &[(&str, End)] = &[
    ("well-behaved", End::Answer(0)),
    ("read-outside", End::Fault(PROCESSOR, MEMORY)),
    ("read-page-tables", End::Fault(PROCESSOR, MEMORY)),
    ("read-host", End::Fault(PROCESSOR, MEMORY)),
    ("write-text", End::Fault(PROCESSOR, MEMORY)),
    ("write-rodata", End::Fault(PROCESSOR, MEMORY)),
    ("write-boot", End::Fault(PROCESSOR, MEMORY)),
    ("run-data", End::Fault(PROCESSOR, MEMORY)),
    ("run-stack", End::Fault(PROCESSOR, MEMORY)),
    ("syscall", End::Fault(PROCESSOR, CALL)),
    ("syscall-open", End::Fault(PROCESSOR, CALL)),
    ("syscall-long-write", End::Fault(PROCESSOR, CALL)),
    // Where the kernel has no 32-bit calls the instruction itself is forbidden.
    ("int80", End::Fault(PROCESSOR, "it ")),
    ("breakpoint", End::Fault(PROCESSOR, "it died of signal 5")),
    ("hlt", End::Fault(PROCESSOR, MEMORY)),
    ("ud2", End::Fault(PROCESSOR, "it ran an instruction that does not exist")),
    ("other-port", End::Fault(PROCESSOR, MEMORY)),
    ("read-doorbell", End::Fault("it left its bounds (a read from a port)\"", MEMORY)),
    ("load-cr3", End::Fault(PROCESSOR, MEMORY)),
    ("divide", End::Fault(PROCESSOR, "it died of signal 8")),
    ("stack-overflow", End::Fault(PROCESSOR, MEMORY)),
    ("panic", End::Guest("a bug that an image")),
    ("loop", End::Limit("processor time")),
    ("sleep", End::Limit("wall-clock time")),
    ("allocate", End::Limit("guest memory")),
    ("requests", End::Limit("number of requests")),
    ("results", End::Limit("size of the results")),
    // Which limit comes first depends on the machine.
    ("long-compare", End::Limit("")),
    ("flood", End::Limit("")),
    ("worker-loop", End::Exit(7)),
    ("worker-fault", End::Fault(PROCESSOR, "it ran an instruction that does not exist")),
    ("bad-op", End::Answer(1)),
    ("reserved", End::Answer(1)),
    ("bad-flags", End::Answer(1)),
    ("bad-device", End::Answer(2)),
    ("overflow", End::Answer(3)),
    ("buffer-outside", End::Answer(4)),
    ("buffer-overlap-end", End::Answer(4)),
    ("buffer-ring", End::Answer(4)),
    ("write-read-only", End::Answer(5)),
    ("copy-read-only", End::Answer(5)),
    ("growth", End::Answer(6)),
    ("growth-length", End::Answer(6)),
    ("open-outside", End::Answer(8)),
    ("open-absent", End::Answer(8)),
    ("open-proc", End::Answer(8)),
    ("open-sealed", End::Answer(13)),
    ("beside-made", End::Answer(6)),
    ("beside-kind", End::Answer(1)),
    ("beside-number", End::Answer(1)),
    ("beside-name", End::Answer(1)),
    ("beside-twice", End::Answer(7)),
    ("beside-source", End::Answer(5)),
    ("beside-existing", End::Answer(2)),
    ("beside-beside", End::Answer(2)),
    ("beside-sealed", End::Answer(13)),
    ("beside-many", End::Answer(0)),
    ("batch-empty", End::Guest("a batch of 0 requests")),
    ("batch-huge", End::Guest("a batch of 100000 requests")),
    ("race", End::Answer(0)),
    ("part-fresh", End::Answer(5)),
    ("part-read-only", End::Answer(5)),
    ("part-extent", End::Answer(5)),
    ("part-backing", End::Answer(5)),
    ("part-outside", End::Answer(8)),
    ("part-proc", End::Answer(8)),
    ("part-folder", End::Answer(8)),
    ("part-device", End::Answer(8)),
    ("part-foreign", End::Answer(5)),
    ("part-foreign-copy", End::Answer(5)),
    ("part-foreign-compare", End::Answer(5)),
    ("part-others", End::Answer(12)),
    ("part-itself", End::Answer(12)),
    ("part-second", End::Answer(10)),
    ("part-of-part", End::Answer(5)),
    ("part-again", End::Answer(10)),
    ("part-sealed", End::Answer(13)),
    ("part-race", End::Answer(0)),
    ("growth-together", End::Answer(6)),
    ("growth-beside", End::Answer(6)),
    ("growth-race", End::Answer(0)),
];

/// Cases that Landlock could be what stops them: they have to end the same without.
const NAMED: [&str; 5] = ["open-", "part-", "beside-", "growth", "write-read-only"];

/// A folder with the trial's two files, two that may be parts of an image, and one that is none of its business, by two
/// names.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("instar-trial-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        for file in ["read-only", "writable", "bystander", "part", "part-too"] {
            fs::write(path.join(file), pattern()).expect("a temporary file");
        }
        // What the guest may have made beside the new file is there already, and has another name.
        fs::hard_link(path.join("bystander"), path.join("new-s001")).expect("a temporary file");
        Self(path)
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).expect("the file is still there")
    }

    fn names(&self) -> usize {
        fs::read_dir(&self.0).expect("the folder is still there").count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn pattern() -> Vec<u8> {
    (0..64 * 1024u32).map(|i| (i * 7 + i / 251) as u8 | 1).collect()
}

fn trial(isolation: &str, landlock: bool, case: &str, folder: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox-trial"));
    if !landlock {
        old_kernel::without_landlock(&mut command);
    }
    let output = command
        .args(["--isolation", isolation, "--case", case, "--dir"])
        .arg(folder)
        // Only what does not compute is left to the clock on the wall: on a loaded machine a second of processor
        // time may take many.
        .args(["--seconds", if matches!(case, "sleep" | "flood") { "2" } else { "60" }])
        .output()
        .expect("the trial starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{isolation} {case}: {} {text}{:?}", output.status, output.stderr);
    text
}

/// Whether the line says what it has to.
fn fits(end: &End, isolation: &str, line: &str) -> bool {
    let guest = |words: &str| line.contains("outcome=guest") && line.contains(words);
    match end {
        End::Fault(kvm, _) if isolation == "kvm" => guest(kvm),
        End::Fault(_, words) | End::Guest(words) => guest(words),
        End::Limit(name) => line.contains(&format!("outcome=limit text={name}")),
        End::Answer(status) => line.contains(&format!("outcome=finished exit=0 answer={status}\n")),
        End::Exit(status) => line.contains(&format!("outcome=finished exit={status} ")),
    }
}

fn run_all(isolation: &str, landlock: bool) {
    let mut wrong = Vec::new();
    let named = |case: &str| NAMED.iter().any(|named| case.starts_with(named));
    let cases: Vec<_> = CASES.iter().filter(|(case, _)| landlock || named(case)).collect();
    for (case, end) in &cases {
        let folder = Folder::new(&format!("{isolation}-{landlock}-{case}"));
        let started = Instant::now();
        let line = trial(isolation, landlock, case, &folder.0);
        if !fits(end, isolation, &line) {
            wrong.push(format!("it ended differently: {line}"));
        }
        if line.contains("left a child behind") {
            wrong.push(format!("{case}: a process outlived the run: {line}"));
        }
        if started.elapsed() > PATIENCE {
            wrong.push(format!("{case}: took {:?}", started.elapsed()));
        }
        if folder.file("read-only") != pattern() || folder.file("bystander") != pattern() || folder.names() != 6 {
            wrong.push(format!("{case}: a file that it may not write is changed"));
        }
        if folder.file("writable").len() as u64 > GROWTH_LIMIT + pattern().len() as u64 {
            wrong.push(format!("{case}: the writable file grew past its limit"));
        }
    }
    assert!(wrong.is_empty(), "{isolation}:\n{}", wrong.join("\n"));
    println!("{} cases held under {isolation}, Landlock: {landlock}", cases.len());
}

fn has_kvm() -> bool {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.inspect_err(|error| println!("skipped: /dev/kvm: {error}")).is_ok()
}

#[test]
fn a_process_holds_every_attack() {
    run_all("process", true);
}

#[test]
fn a_virtual_machine_holds_every_attack() {
    if has_kvm() {
        run_all("kvm", true);
    }
}

#[test]
fn a_process_holds_where_the_kernel_has_no_landlock() {
    run_all("process", false);
}

#[test]
fn a_virtual_machine_holds_where_the_kernel_has_no_landlock() {
    if has_kvm() {
        run_all("kvm", false);
    }
}
