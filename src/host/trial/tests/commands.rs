//! What a guest that was taken over gets from each command: the commands as they are, with the hostile guest, in both
//! backends, with Landlock and without. docs/security.md has the table.

mod old_kernel;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// Exit status of a guest that got nothing.
const NONE: i32 = 100;
/// Files that are nobody's business.
const BYSTANDERS: [&str; 4] = ["one", "two", "three", "sub/four"];

/// A folder with an image that attacks, `existing`, and the bystanders; beside it another with one of its own.
struct Scene {
    root: PathBuf,
    folder: PathBuf,
}

/// All that is known of a file: content, length, mode, times of change.
type Known = (PathBuf, Vec<u8>, u64, u32, [i64; 4]);

impl Scene {
    fn new(case: &str, names: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("instar-commands-{}-{number}", std::process::id()));
        let folder = root.join("folder");
        fs::create_dir_all(folder.join("sub")).expect("a temporary folder");
        fs::create_dir_all(root.join("beside")).expect("a temporary folder");
        for name in BYSTANDERS.iter().chain(&["existing", "../beside/five"]) {
            fs::write(folder.join(name), name.repeat(4000)).expect("a temporary file");
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o640)).expect("our own file");
        }
        let mut evil = format!("hostile {case} {}\n", names.join(" ")).into_bytes();
        evil.resize(64 << 10, 0);
        fs::write(folder.join("evil"), evil).expect("a temporary file");
        Self { root, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    fn known(&self) -> Vec<Known> {
        let mut all = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("it is there") {
                let path = entry.expect("it is there").path();
                let meta = fs::symlink_metadata(&path).expect("it is there");
                if meta.is_dir() {
                    folders.push(path);
                    continue;
                }
                let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
                let content = fs::read(&path).expect("it can be read");
                all.push((path, content, meta.len(), meta.mode(), times));
            }
        }
        all.sort_unstable();
        all
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).ok();
    }
}

/// Every backend that there is, with Landlock and without.
fn ways() -> Vec<(&'static str, bool)> {
    let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let backends = if kvm { &["process", "kvm"][..] } else { &["process"] };
    backends.iter().flat_map(|backend| [(*backend, true), (*backend, false)]).collect()
}

fn run((isolation, landlock): (&str, bool), folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostile-img"));
    if !landlock {
        old_kernel::without_landlock(&mut command);
    }
    command.args(arguments).current_dir(folder).env("INSTAR_ISOLATION", isolation).env("INSTAR_CONFIG", "/dev/null");
    command.output().expect("it starts")
}

/// Runs the command on the attacker's image. It gets so many files, and nothing but those is changed or made.
fn attack(arguments: &[&str], gets: usize) {
    let names = ["existing", "evil", "one", "two", "./three", "sub/../sub/four", "../beside/five", "file:one"];
    for way in ways() {
        for case in ["image-write", "image-write-race"] {
            let scene = Scene::new(case, &names);
            let before = scene.known();
            let output = run(way, &scene.folder, arguments);
            let after = scene.known();
            let got = output.status.code().map_or(-1, |status| status - NONE);
            let told = String::from_utf8_lossy(&output.stderr);
            let changed = before.iter().zip(&after).filter(|(one, other)| one != other).count();
            assert_eq!(before.len(), after.len(), "{way:?} {case} {arguments:?}: files came or went");
            if case == "image-write" {
                assert_eq!((got, changed), (gets as i32, gets), "{way:?} {case} {arguments:?}: {told}");
            } else {
                assert!((0..=gets as i32).contains(&got), "{way:?} {case} {arguments:?}: {got} {told}");
                assert!(changed <= gets, "{way:?} {case} {arguments:?}");
            }
        }
    }
}

macro_rules! gets {
    ($($name:ident: $gets:literal, $($words:literal)+;)+) => { $(
        #[test]
        fn $name() {
            for words in [$($words),+] {
                attack(&words.split(' ').collect::<Vec<_>>(), $gets);
            }
        }
    )+ };
}

gets! {
    reading_commands_write_nothing: 0,
        "info -f raw evil" "info evil" "check -f qcow2 evil" "map -f raw evil" "measure -f raw evil" "bench -f raw -c 1 evil"
        "compare -f raw -F raw evil existing" "snapshot -l -f raw evil" "snapshot -l evil";
    convert_to_a_new_file_writes_nothing_else: 0,
        "convert -f raw -O raw evil out" "convert -O qcow2 evil out" "convert -O vmdk evil out"
        "convert -f raw -O qcow2 -B existing -F raw evil out" "dd if=evil of=out" "dd -O qcow2 if=evil of=out";
    convert_over_an_existing_file_writes_nothing_else: 0,
        "convert -f raw -O raw evil existing" "convert -f raw -O qcow2 evil existing";
    convert_into_an_existing_image_writes_nothing_else: 0,
        "convert -n -f raw -O raw evil existing" "convert -n -O qcow2 evil existing" "convert -n -O vmdk evil existing"
        "convert -n --target-image-opts evil driver=qcow2,file.filename=existing";
    create_writes_nothing_else: 0,
        "create -f qcow2 -b evil -F raw out" "create -f vmdk -b evil -F vmdk out";
    raw_in_place_writes_nothing_else: 0,
        "resize -f raw evil 1M" "bench -w -f raw -c 1 evil" "rebase -u -f raw -b two evil" "resize -f vdi evil 1M"
        "snapshot -c one -f raw evil"
        "resize --image-opts driver=raw,file.filename=evil 1M";
    qcow2_in_place_writes_one_data_file: 1,
        "resize -f qcow2 evil 1M" "bench -w -f qcow2 -c 1 evil" "rebase -u -f qcow2 -b two evil"
        "rebase -f qcow2 -b existing -F raw evil" "snapshot -c one -f qcow2 evil" "snapshot -d one -f qcow2 evil";
    commit_writes_its_base_and_one_data_file_each: 3,
        "commit -f qcow2 evil" "commit -f qcow2 -d evil" "commit -f qcow2 -b one evil";
    commit_of_another_format_writes_its_base: 2,
        "commit -f qed evil";
    vmdk_in_place_writes_extents_below_its_folder: 5,
        "resize -f vmdk evil 1M" "bench -w -f vmdk -c 1 evil";
    unknown_in_place_writes_parts_below_its_folder: 5,
        "resize evil 1M" "bench -w -c 1 evil" "snapshot -a one evil"
        "amend -o compat=1.1 evil" "amend -o help evil";
    no_backing_means_no_part: 0,
        "resize --no-backing evil 1M" "commit --no-backing evil" "bench --no-backing -w -f vmdk -c 1 evil";
}

/// What each command is called with where it is to be read.
const COMMANDS: &[&str] = &[
    "info -f raw evil",
    "check -f qcow2 evil",
    "map -f raw evil",
    "measure -f raw evil",
    "bench -f raw -c 1 evil",
    "compare -f raw -F raw evil existing",
    "convert -f raw -O raw evil out",
    "convert -n -f raw -O raw evil existing",
    "convert -O vmdk evil out.vmdk",
    "dd if=evil of=out",
    "create -f qcow2 -b evil -F raw out",
    "resize -f raw evil 1M",
    "snapshot -l -f raw evil",
    "rebase -u -f qcow2 -b two evil",
    "commit evil",
];

/// Runs each command; the guest gets so many files, where it has two images by each of them.
fn read(names: &[&str], more: &[&str], gets: i32) {
    for (way, row) in ways().into_iter().flat_map(|way| COMMANDS.iter().map(move |row| (way, *row))) {
        let scene = Scene::new("image-read", names);
        let words: Vec<&str> = row.split(' ').chain(more.iter().copied()).collect();
        let output = run(way, &scene.folder, &words);
        let told = String::from_utf8_lossy(&output.stderr);
        let got = output.status.code().map_or(-1, |status| status - NONE);
        assert!(got == gets || got == 2 * gets, "{way:?} {row}: {got} {told}");
    }
}

#[test]
fn what_may_be_read_lies_below_the_images_folder() {
    read(&["../beside/five", "/etc/hostname", "/proc/self/maps", "sub/../../beside/five", "/dev/stdin", "."], &[], 0);
    read(&["one", "sub/four"], &[], 2);
}

#[test]
fn no_backing_reads_nothing_else() {
    read(&["one", "sub/four", "../beside/five", "/etc/hostname"], &["--no-backing"], 0);
}

/// The names of what lies in the folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("it is there").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[test]
fn files_are_made_beside_a_new_vmdk_only() {
    for (way, row) in ways().into_iter().flat_map(|way| COMMANDS.iter().map(move |row| (way, *row))) {
        let scene = Scene::new("image-make", &[]);
        let before = scene.known();
        let output = run(way, &scene.folder, &row.split(' ').collect::<Vec<_>>());
        let gets = if row.contains("-O vmdk") { 7 } else { 0 };
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(NONE + gets), "{way:?} {row}: {told}");
        assert_eq!(scene.known(), before, "{way:?} {row}: none is left of a command that fails");
    }
}

#[test]
fn what_is_published_has_its_name_from_the_command() {
    let vmdk = ["out-f001.vmdk", "out-f002.vmdk", "out-f003.vmdk", "out-flat.vmdk"];
    let vmdk = [&vmdk[..], &["out-s001.vmdk", "out-s002.vmdk", "out-s003.vmdk", "out.vmdk"]].concat();
    for (row, made) in [
        ("convert -O vmdk evil out.vmdk", &vmdk[..]),
        ("create -f vmdk -b evil -F vmdk out.vmdk", &vmdk),
        ("convert -O qcow2 evil out", &["out"]),
        ("dd if=evil of=out", &["out"]),
        ("create -f qcow2 -b evil -F raw out", &["out"]),
        ("convert -n -O vmdk evil existing", &[]),
        ("resize -f vmdk evil 1M", &[]),
        ("commit evil", &[]),
        ("info evil", &[]),
    ] {
        for way in ways() {
            let scene = Scene::new("image-publish", &[]);
            let before = names(&scene.folder);
            let output = run(way, &scene.folder, &row.split(' ').collect::<Vec<_>>());
            let new: Vec<String> = names(&scene.folder).into_iter().filter(|name| !before.contains(name)).collect();
            assert_eq!(new, made, "{way:?} {row}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn what_is_printed_is_harmless_to_a_terminal() {
    for (way, row) in ways().into_iter().flat_map(|way| COMMANDS.iter().map(move |row| (way, *row))) {
        let scene = Scene::new("image-print", &[]);
        let output = run(way, &scene.folder, &row.split(' ').collect::<Vec<_>>());
        let all = [&output.stdout[..], &output.stderr].concat();
        assert!(!all.is_empty(), "{way:?} {row}: it was heard");
        let foul = |byte: &&u8| byte.is_ascii_control() && **byte != b'\n' && **byte != b'\t';
        let text = String::from_utf8_lossy(&all);
        assert_eq!(all.iter().filter(foul).count(), 0, "{way:?} {row}: {text:?}");
        assert!(!text.chars().any(|c| ('\u{80}'..'\u{a0}').contains(&c)), "{way:?} {row}: {text:?}");
    }
}

/// A loop device over a file; the test is root's.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_string();
        let found = output.status.success() && !name.is_empty();
        if !found {
            println!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr));
        }
        found.then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup").args(["--detach", &self.0]).status().ok();
    }
}

/// The attacker's image, a target and a victim, each on a device of its own: `{E}` `{T}` `{V}`.
fn attack_devices(case: &str, rows: &[&str]) {
    for (way, row) in ways().into_iter().flat_map(|way| rows.iter().map(move |row| (way, *row))) {
        let scene = Scene::new(case, &[]);
        let Some(victim) = Loop::new(&scene.folder.join("one")) else { return };
        let name = victim.0.trim_start_matches("/dev/");
        let mut evil = format!("hostile {case} {name} {0} ./{name} ../dev/{name} file:{0}\n", victim.0).into_bytes();
        evil.resize(64 << 10, 0);
        fs::write(scene.folder.join("evil"), &evil).expect("our own file");
        let (Some(attacker), Some(target)) =
            (Loop::new(&scene.folder.join("evil")), Loop::new(&scene.folder.join("existing")))
        else {
            return;
        };
        let words = row.replace("{E}", &attacker.0).replace("{T}", &target.0).replace("{V}", &victim.0);
        let before = scene.known();
        let output = run(way, &scene.folder, &words.split(' ').collect::<Vec<_>>());
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(NONE), "{way:?} {case} {words}: {told}");
        assert_eq!(scene.known(), before, "{way:?} {case} {words}");
    }
}

#[test]
fn a_device_as_target_leaves_the_others_alone() {
    attack_devices(
        "image-write",
        &[
            "convert -f raw -O raw evil {T}",
            "convert -n -f raw -O raw evil {T}",
            "convert -n -O qcow2 evil {T}",
            "convert -O qcow2 {E} {T}",
            "resize -f qcow2 {E} 64k",
            "bench -w -c 1 {E}",
            "commit {E}",
        ],
    );
}

#[test]
fn an_image_on_a_device_reads_no_other() {
    attack_devices(
        "image-read",
        &["convert -f raw -O raw {E} out", "convert -O qcow2 {E} {T}", "info {E}", "compare {E} {T}", "commit {E}"],
    );
}

/// An image in an ordinary folder names a device by a node that lies there, or by its name in /dev.
#[test]
fn a_device_is_named_by_no_image() {
    attack_devices("image-read", &["convert -f raw -O raw evil out", "info evil", "rebase -u -b x -f qcow2 evil"]);
    attack_devices("image-write", &["commit evil", "resize evil 1M", "bench -w -f vmdk -c 1 evil"]);
}

#[test]
fn growth_counts_for_the_run() {
    for way in ways() {
        for row in ["convert -O vmdk evil out", "resize -f raw evil 1M", "convert -n -O raw evil existing"] {
            let scene = Scene::new("image-grow", &[]);
            let words: Vec<&str> = row.split(' ').chain(["--max-output-growth", "1M"]).collect();
            let output = run(way, &scene.folder, &words);
            // Four pieces of 256 KiB.
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(NONE + 4), "{way:?} {row}: {told}");
        }
    }
}

#[test]
fn a_missing_landlock_is_told() {
    let scene = Scene::new("image-read", &[]);
    for way in ways() {
        let output = run(way, &scene.folder, &["info", "--verbose", "-f", "raw", &scene.path("evil")]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(told.contains("no Landlock"), !way.1, "{way:?} {told}");
        let output = run(way, &scene.folder, &["doctor"]);
        let doctor = String::from_utf8_lossy(&output.stdout);
        let line = doctor.lines().find(|line| line.starts_with("Landlock:")).expect("doctor tells of it");
        assert_eq!(line.contains("missing"), !way.1, "{way:?} {line}");
        let output = run(way, &scene.folder, &["info", "-f", "raw", &scene.path("evil")]);
        assert!(output.stderr.is_empty(), "nothing is said unless it is asked for");
    }
}
