//! Property: whatever names a guest asks for, in whatever order, no file changes but those that the command allows.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use instar_abi::ring::{Beside, FLAG_WRITE, Request, Role};

use super::tests::{Bench, Nobody, limits, request};
use super::*;
use crate::Mode;
use crate::policy::Parts;
use crate::target::{Cache, Target, Written};

/// Requests that one tree of files has to bear.
const ROUND: u64 = 500;
const GROWTH: u64 = 1 << 20;

/// Names that are put together to paths.
const PIECES: &[&[u8]] = &[
    b"one",
    b"two",
    b"own",
    b"sub",
    b"other",
    b"allowed",
    b"image",
    b"target",
    b"in",
    b"out",
    b"up",
    b"magic",
    b"fifo",
    b"..",
    b".",
    b"",
    b"/",
    b"//",
    b"/etc/hostname",
    b"/proc/self/fd/3",
    b"/proc/self/root",
    b"/dev/loop0",
    b"/dev/stdin",
    b"file:",
    b"json:{}",
    b"nbd:",
    b"a:b",
    b"\xff\xfe",
    b"new-s001.x",
    b"new-flat.x",
    b"new.x",
    b"\0",
    b"\n",
    b" ",
    b"deep",
    b"loop",
    b"across",
    b"back",
    b"abs",
    b"absout",
    b"bounce",
    b"theirs",
];

/// `own` is the images' folder, `allowed` one of `--allow-backing`, `other` nobody's.
fn plant(root: &Path) {
    for folder in ["own/sub/deep", "allowed/sub", "other/sub"] {
        fs::create_dir_all(root.join(folder)).expect("a folder for the test");
    }
    for file in
        ["own/one", "own/two", "own/sub/one", "own/sub/deep/two", "own/image", "own/target", "own/written", "own/a:b"]
    {
        fs::write(root.join(file), file).expect("room on the disk");
    }
    for file in ["allowed/one", "allowed/sub/two", "other/one", "other/sub/two", "own/new-s001.x", "one"] {
        fs::write(root.join(file), file).expect("room on the disk");
    }
    for (link, to) in [
        ("own/in", "sub/one"),
        ("own/out", "../other/one"),
        ("own/up", ".."),
        ("own/sub/out", "../../other"),
        ("own/magic", "/proc/self/root"),
        ("own/loop", "loop"),
        ("allowed/out", "../other/one"),
        ("allowed/up", "../.."),
        ("own/across", "../allowed"),
        ("own/sub/across", "../../allowed/sub/two"),
        ("allowed/back", "../own/sub"),
        ("allowed/bounce", "../other/../own/one"),
        ("own/bounce", "across/back/../across/one"),
        ("other/back", "../own/one"),
    ] {
        symlink(to, root.join(link)).expect("a link");
    }
    for (link, to) in [
        ("own/abs", "allowed/one"),
        ("own/sub/abs", "allowed"),
        ("allowed/abs", "own/sub/deep/two"),
        ("allowed/sub/abs", "own"),
        ("own/absout", "other"),
        ("allowed/absout", "other/one"),
        ("other/abs", "own"),
    ] {
        symlink(root.join(to), root.join(link)).expect("a link");
    }
    // A folder for all, and in it links that somebody else put there.
    fs::create_dir(root.join("allowed/deep")).expect("a folder for the test");
    fs::set_permissions(root.join("allowed/deep"), fs::Permissions::from_mode(0o1777)).expect("it is ours");
    for (name, to) in [("theirs", "../one"), ("across", "..")] {
        let link = root.join("allowed/deep").join(name);
        symlink(to, &link).expect("a link");
        let _ = std::os::unix::fs::lchown(link, Some(65534), None);
    }
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("own/fifo"), fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .expect("a pipe");
}

type Known = (PathBuf, Vec<u8>, u64, u32, [i64; 4]);

/// Content, length, mode and times of all files below, and the names of what is none.
fn known(root: &Path) -> Vec<Known> {
    let (mut all, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("it is there").path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            if meta.is_dir() {
                folders.push(path.clone());
            }
            let content = if meta.is_file() { fs::read(&path).expect("it can be read") } else { Vec::new() };
            let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
            all.push((path, content, meta.len(), meta.mode(), times));
        }
    }
    all.sort_unstable();
    all
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn name(&mut self, root: &Path) -> Vec<u8> {
        let mut name = match self.next(6) {
            0 => root.as_os_str().as_encoded_bytes().to_vec(),
            1 => b"../".repeat(self.next(40) as usize),
            2 => [root.as_os_str().as_encoded_bytes(), b"/own"].concat(),
            _ => Vec::new(),
        };
        // Half of them are short: more of those lead somewhere.
        let more = self.next(2) * self.next(6);
        for _ in 0..=more {
            if !name.is_empty() && self.next(8) != 0 {
                name.push(b'/');
            }
            name.extend(PIECES[self.next(PIECES.len() as u64) as usize]);
        }
        if self.next(200) == 0 {
            name.resize(4096, b'x');
        }
        name.truncate(4096);
        name
    }
}

/// What a command has: a source, an image that is written and its parts, a new target.
fn devices(root: &Path, parts: Parts, fresh: bool) -> (Vec<Device>, Option<Target>) {
    let mode = Mode::Write { growth_limit_bytes: GROWTH };
    let open = |name: &str, mode: Mode| {
        let path = root.join(name);
        let file = fs::File::options().read(true).write(mode != Mode::Read).open(&path).expect("it is there");
        let (fresh, direct, ignore_flush) = (false, false, false);
        Device {
            file,
            path,
            mode,
            fresh,
            direct,
            contended: false,
            ignore_flush,
            maker: None,
            parts: Parts::NONE,
            old: None,
        }
    };
    let mut devices = vec![Device { parts, ..open("own/target", mode) }, open("own/image", Mode::Read)];
    let target = fresh.then(|| {
        let path = root.join("own/new.x");
        let (target, Written { file, fresh, old }) = Target::create(&path, Cache::default(), 0).expect("a new file");
        let (direct, ignore_flush, maker) = (false, false, target.maker());
        devices.push(Device {
            file,
            path,
            mode,
            fresh,
            direct,
            contended: false,
            ignore_flush,
            maker,
            parts: Parts::ANY,
            old,
        });
        target
    });
    (devices, target)
}

fn joined_by_its_letters(above: &Path, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let name = name.strip_prefix(b"file:").unwrap_or(name);
    crate::policy::fold(&above.with_file_name("").join(std::ffi::OsStr::from_bytes(name)))
}

#[test]
fn no_file_changes_but_those_that_the_command_allows() {
    let runs = std::env::var("INSTAR_PROPERTY_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000u64);
    let root = std::env::temp_dir().join(format!("instar-names-{}", std::process::id()));
    fs::create_dir_all(&root).expect("a folder for the test");
    let root = fs::canonicalize(root).expect("just made");
    plant(&root);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut before = known(&root);
    // What may be opened at all.
    let inside: std::collections::BTreeSet<(u64, u64)> = before
        .iter()
        .filter(|known| known.0.starts_with(root.join("own")) || known.0.starts_with(root.join("allowed")))
        .map(|known| fs::symlink_metadata(&known.0).expect("it is there"))
        .filter(fs::Metadata::is_file)
        .map(|meta| (meta.dev(), meta.ino()))
        .collect();
    let base = Parts { bases: 1, ..Parts::DATA_FILE };
    let (mut opened, mut written, mut made, mut over) = (0u64, 0u64, 0u64, 0u64);
    for round in 0..runs.div_ceil(ROUND) {
        // Half of the rounds allow nothing to be written; the other half so many files.
        let (parts, most) = [(Parts::NONE, 0), (Parts::DATA_FILE, 1), (Parts::NONE, 0), (base, 3)][round as usize % 4];
        let (list, target) = devices(&root, parts, round % 3 == 0);
        let own = list.len() as u64;
        let mut bench = Bench::new("names", &[], 1);
        let policy = Policy { allowed: vec![root.join("allowed")], ..Policy::default() };
        bench.server = Server::new(list, policy, limits(), &Nobody, 2);
        let heap = bench.heap();
        for _ in 0..ROUND {
            let dev = random.next(own + 4) as u32;
            let asked = if random.next(8) == 0 {
                let (arg, len) = (random.next(5) as u32, random.next(1002));
                Request { dev, arg: arg.min(Beside::SplitSparse as u32 + 1), len, ..request(Op::CreateBeside) }
            } else {
                let name = random.name(&root);
                bench.memory.fill(heap, &name);
                let flags = if random.next(2) == 0 { FLAG_WRITE } else { 0 };
                let role = [Role::Backing, Role::DataFile, Role::Extent][random.next(3) as usize];
                let buf_len = name.len() as u64;
                Request { dev, flags, arg: role as u32, buf: heap, buf_len, ..request(Op::OpenNamed) }
            };
            let reply = bench.call(asked);
            if reply.status != Status::Ok as u32 {
                continue;
            }
            // Everything is tried with what was got.
            let got = reply.value as u32;
            let slot = bench.server.table.get(got).expect("it was got");
            assert!(
                inside.contains(&slot.identity) || slot.device.fresh,
                "round {round}: {}",
                slot.device.path.display()
            );
            opened += 1;
            made += u64::from(asked.op == Op::CreateBeside as u16);
            let write = Request { dev: got, len: 512, buf: heap, ..request(Op::Write) };
            let was_written = bench.call(write).status == Status::Ok as u32;
            written += u64::from(was_written && asked.op != Op::CreateBeside as u16);
            bench.call(Request { dev: got, len: 1 + random.next(4096), ..request(Op::SetLength) });
            bench.call(Request { dev: got, offset: random.next(4096), len: 512, ..request(Op::WriteZeroes) });
            bench.call(Request { dev: got, len: 4096, ..request(Op::Discard) });
        }
        for asked in bench.server.take_asked() {
            let Some(path) = asked.path.filter(|_| asked.answer.is_ok()) else { continue };
            assert!(fs::canonicalize(&path).is_ok_and(|at| at == path), "{}: it leads elsewhere", path.display());
            let above = bench.server.table.get(asked.device).expect("it was got");
            over += u64::from(joined_by_its_letters(&above.device.path, &asked.name) != path);
        }
        drop((bench, target));
        let after = known(&root);
        let names = |all: &[Known]| all.iter().map(|known| known.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&before), names(&after), "round {round}: nothing comes and nothing goes");
        let changed: Vec<_> =
            before.iter().zip(&after).filter(|(one, other)| one != other).map(|(one, _)| &one.0).collect();
        assert!(changed.len() <= most, "round {round}: {changed:?}");
        for path in changed {
            let inside = path.starts_with(root.join("own")) || path.starts_with(root.join("allowed"));
            let taken = path.ends_with("own/image") || path.ends_with("own/target");
            assert!(inside && !taken, "round {round}: {}", path.display());
        }
        before = after;
    }
    println!("{runs} requests: {opened} opened, {written} written to, {made} made beside, {over} over a link");
    assert!(
        opened > runs / 1000 && written > 0 && made > 0 && over > runs / 10_000,
        "{opened} {written} {made} {over}: too few"
    );
    fs::remove_dir_all(root).expect("made here");
}
