//! The server as a guest meets it: requests in shared memory, real files behind it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use instar_abi::ring::{
    Beside, ExtentEntry, FLAG_FULL, FLAG_SKIP_ZERO, FLAG_UNMAP, FLAG_WRITE, Request, Role, STAT_FRESH,
    STAT_SAME_FILE_SHIFT, STAT_WRITABLE,
};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::Mode;
use crate::layout::Layout;
use crate::memory::Backing;
use crate::policy::Parts;
use crate::target::{Cache, Old, Target, Written};

mod copies;
mod limits;
mod slow;

/// How long the second device may become.
const GROWTH: u64 = 8 << 20;
const MIB: u64 = 1 << 20;

pub(super) struct Nobody;

impl Observer for Nobody {
    fn progress(&self, _done: u64, _total: u64) {}
    fn log(&self, _level: u32, text: &[u8]) -> u64 {
        text.len() as u64
    }
}

/// Device 0 is a source, 1 an empty target, 2 another source that is empty.
pub(super) struct Bench {
    folder: PathBuf,
    pub(super) memory: Shared,
    pub(super) server: Server<'static>,
}

pub(super) fn limits() -> Limits {
    Limits {
        cpu: None,
        wall: None,
        guest_memory_bytes: 16 << 20,
        requests: None,
        result_bytes: 100,
        shown_bytes: 1000,
        message_bytes: 500,
    }
}

impl Bench {
    pub(super) fn new(name: &str, source: &[(u64, &[u8])], len: u64) -> Self {
        Self::with(name, source, len, limits())
    }

    fn with(name: &str, source: &[(u64, &[u8])], len: u64, limits: Limits) -> Self {
        let folder = std::env::temp_dir().join(format!("instar-server-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let made = File::create(folder.join("source")).expect("a file");
        for (at, bytes) in source {
            made.write_all_at(bytes, *at).expect("room on the disk");
        }
        made.set_len(len).expect("room on the disk");
        let device = |name: &str, mode: Mode| {
            let path = folder.join(name);
            let write = mode != Mode::Read;
            File::options().create(true).append(true).open(&path).expect("a file");
            let file = File::options().read(true).write(write).open(&path).expect("a file");
            let (direct, ignore_flush, maker, parts, old) = (false, false, None, Parts::NONE, None);
            Device { file, path, mode, fresh: write, direct, contended: false, ignore_flush, maker, parts, old }
        };
        let devices = vec![
            device("source", Mode::Read),
            device("target", Mode::Write { growth_limit_bytes: GROWTH }),
            device("empty", Mode::Read),
        ];
        let layout = Layout::new(2, 0, 0, 0, limits.guest_memory_bytes).expect("enough memory");
        let memory = Shared::new(layout, Backing::Anonymous).expect("memory");
        let server = Server::new(devices, Policy::default(), limits, &Nobody, 2);
        Self { folder, memory, server }
    }

    pub(super) fn heap(&self) -> u64 {
        self.memory.layout().heap
    }

    /// Puts a batch into worker 0's ring.
    fn put(&self, requests: &[Request]) {
        let ring = self.memory.layout().rings;
        self.memory.fill(ring, &(requests.len() as u32).to_le_bytes());
        for (i, request) in requests.iter().enumerate() {
            self.memory.fill(ring + 64 + i as u64 * 64, request.as_bytes());
        }
    }

    fn replies(&self, count: usize) -> Vec<Reply> {
        let at = self.memory.at(self.memory.layout().rings + 64 + BATCH_MAX as u64 * 64);
        // SAFETY: the replies lie in the ring, which is mapped; nobody else writes to it.
        (0..count).map(|i| unsafe { at.cast::<Reply>().add(i).read() }).collect()
    }

    /// Puts a batch into worker 0's ring and rings.
    fn batch(&self, requests: &[Request]) -> (Served, Vec<Reply>) {
        self.put(requests);
        let served = self.server.serve(0, &self.memory, &Depth::default());
        (served, self.replies(requests.len()))
    }

    pub(super) fn call(&self, request: Request) -> Reply {
        let (served, replies) = self.batch(&[request]);
        assert_eq!(served, Served::Continue);
        replies[0]
    }

    fn ok(&self, request: Request) -> Reply {
        let reply = self.call(request);
        assert_eq!(Status::from_wire(reply.status), Some(Status::Ok), "errno {}", reply.errno);
        reply
    }

    fn refused(&self, request: Request) -> Status {
        Status::from_wire(self.call(request).status).expect("a status")
    }

    fn heap_bytes(&self, len: u64) -> Vec<u8> {
        self.memory.heap(self.heap(), len).expect("in the heap").to_vec()
    }

    fn target(&self) -> Vec<u8> {
        std::fs::read(self.folder.join("target")).expect("it is there")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(super) fn request(op: Op) -> Request {
    Request { op: op as u16, ..Request::default() }
}

/// Device 0 to device 1.
fn copying(offset: u64, len: u64) -> Request {
    Request { offset, len, dev2: 1, offset2: offset, ..request(Op::Copy) }
}

#[test]
fn what_is_past_the_end_reads_as_zeroes() {
    let bench = Bench::new("read", &[(0, b"abc")], 3);
    bench.memory.fill(bench.heap(), &[9; 8]);
    let read = Request { offset: 1, len: 6, buf: bench.heap(), ..request(Op::Read) };
    assert_eq!(bench.ok(read).value, 2);
    assert_eq!(bench.heap_bytes(8), b"bc\0\0\0\0\x09\x09");
    assert_eq!(bench.ok(Request { offset: 1 << 40, ..read }).value, 0);
}

#[test]
fn writes_stay_on_writable_devices_and_below_the_limit() {
    let bench = Bench::new("write", &[], 4096);
    bench.memory.fill(bench.heap(), b"hello");
    let write = Request { dev: 1, offset: 10, len: 5, buf: bench.heap(), ..request(Op::Write) };
    bench.ok(write);
    assert_eq!(bench.target(), b"\0\0\0\0\0\0\0\0\0\0hello");
    assert_eq!(bench.refused(Request { dev: 0, ..write }), Status::ReadOnly);
    assert_eq!(bench.refused(Request { dev: 3, ..write }), Status::BadDevice);
    assert_eq!(bench.refused(Request { offset: GROWTH - 4, ..write }), Status::GrowthLimit);
    assert_eq!(bench.refused(Request { offset: u64::MAX - 1, ..write }), Status::BadRange);
    assert_eq!(bench.refused(Request { buf: bench.heap() - 1, ..write }), Status::BadBuffer);
    assert_eq!(bench.refused(Request { len: 1 << 40, offset: 0, ..write }), Status::BadBuffer);
    assert_eq!(bench.refused(Request { reserved: 1, ..write }), Status::BadRequest);
    assert_eq!(bench.refused(Request { flags: FLAG_WRITE, ..write }), Status::BadRequest);
    assert_eq!(bench.refused(Request { op: 999, ..write }), Status::BadRequest);
    assert_eq!(bench.refused(Request { dev: 1, len: GROWTH + 1, ..request(Op::SetLength) }), Status::GrowthLimit);
    assert_eq!(bench.refused(copying(0, 16).tap(|r| r.dev2 = 0)), Status::ReadOnly);
    assert_eq!(bench.target().len(), 15);
}

#[test]
fn files_grow_by_so_much_all_together_and_what_is_there_may_be_written() {
    let mut bench = Bench::new("together", &[], 1);
    let mode = Mode::Write { growth_limit_bytes: GROWTH };
    let devices = ["one", "other"].map(|name| {
        let path = bench.folder.join(name);
        std::fs::write(&path, vec![7; 2 * GROWTH as usize]).expect("room on the disk");
        let file = File::options().read(true).write(true).open(&path).expect("it is there");
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
    });
    bench.server = Server::new(devices.into(), Policy::default(), limits(), &Nobody, 2);
    let write = |dev: u32, offset: u64| Request { dev, offset, len: 512, buf: bench.heap(), ..request(Op::Write) };
    bench.ok(write(0, 2 * GROWTH - 512));
    bench.ok(Request { dev: 0, len: 3 * GROWTH - 512, ..request(Op::SetLength) });
    assert_eq!(bench.refused(write(0, 3 * GROWTH - 1)), Status::GrowthLimit);
    bench.ok(write(1, 2 * GROWTH));
    for refused in [
        write(1, 2 * GROWTH + 512),
        Request { dev: 1, len: 2 * GROWTH + 513, ..request(Op::SetLength) },
        Request { dev: 1, offset: 2 * GROWTH, len: 513, ..request(Op::Allocate) },
        Request { dev: 1, offset: 2 * GROWTH, len: 513, ..request(Op::WriteZeroes) },
        Request { dev: 0, dev2: 1, offset2: 2 * GROWTH, len: 513, ..request(Op::Copy) },
    ] {
        assert_eq!(bench.refused(refused), Status::GrowthLimit, "{refused:?}");
    }
    bench.ok(write(1, 0));
    let lengths = ["one", "other"].map(|name| std::fs::metadata(bench.folder.join(name)).expect("it is there").len());
    assert_eq!(lengths, [3 * GROWTH - 512, 2 * GROWTH + 512]);
}

trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Tap for Request {}

#[test]
fn zeroes_extend_and_overwrite() {
    let bench = Bench::new("zeroes", &[], 1);
    bench.memory.fill(bench.heap(), &[9; 8192]);
    bench.ok(Request { dev: 1, len: 8192, buf: bench.heap(), ..request(Op::Write) });
    for flags in [0, FLAG_UNMAP] {
        bench.ok(Request { dev: 1, offset: 4096, len: 8192, flags, ..request(Op::WriteZeroes) });
        let target = bench.target();
        assert_eq!(target.len(), 4096 + 8192);
        assert!(target[..4096].iter().all(|b| *b == 9) && target[4096..].iter().all(|b| *b == 0));
    }
    bench.ok(Request { dev: 1, offset: 0, len: 100, ..request(Op::WriteZeroes) });
    assert_eq!((bench.target()[99], bench.target()[100]), (0, 9));
    bench.ok(Request { dev: 1, offset: MIB, len: 4096, flags: FLAG_FULL, ..request(Op::Allocate) });
    assert_eq!(bench.target().len() as u64, MIB + 4096);
    bench.ok(Request { dev: 1, offset: 200, len: 2 * MIB, ..request(Op::Allocate) });
    assert_eq!((bench.target().len() as u64, bench.target()[200]), (2 * MIB + 200, 9));
    bench.ok(Request { dev: 1, offset: 0, len: 4096, ..request(Op::Discard) });
    assert_eq!(bench.refused(Request { dev: 0, len: 4096, ..request(Op::Discard) }), Status::ReadOnly);
    bench.ok(Request { dev: 1, ..request(Op::Flush) });
}

#[test]
fn a_writer_is_never_cut_off_by_one_who_extends() {
    let bench = Bench::new("race", &[(0, &[5; 4096])], 4096);
    let slot = bench.server.table.get(1).expect("it is there");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..1000 {
                slot.extend(i * 4096 + 1).expect("room on the disk");
            }
        });
        for i in 0..1000 {
            let mut buffer = bulk::Buffer::default();
            let from = bench.server.table.get(0).expect("it is there");
            bulk::copy(
                &mut buffer,
                (&from, 0),
                (&slot, i * 4096),
                4096,
                bulk::Zeroes::Skipped(512),
                &AtomicBool::new(false),
            )
            .expect("room on the disk");
        }
    });
    assert!(bench.target().chunks(4096).take(1000).all(|block| block[0] == 5 && block.len() == 4096));
}

#[test]
fn comparisons_tell_how_much_is_equal() {
    let bench = Bench::new("map", &[(2 * MIB + 1, b"x"), (5 * MIB, b"y")], 6 * MIB);
    let compare = Request { len: 1 << 60, dev2: 2, ..request(Op::Compare) };
    assert_eq!(bench.ok(compare).value, 2 * MIB + 1);
    assert_eq!(bench.ok(Request { offset: 5 * MIB + 1, offset2: 5 * MIB + 1, ..compare }).value, 1 << 60);
    assert_eq!(bench.ok(Request { dev2: 0, ..compare }).value, 1 << 60);
}

#[test]
fn extents_cover_what_there_is() {
    let bench = Bench::new("extents", &[(MIB, &[1; 4096]), (3 * MIB, &[1; 4096])], 4 * MIB);
    let ask = Request { len: 1 << 60, buf: bench.heap(), buf_len: 16 * 100, ..request(Op::Extents) };
    let reply = bench.ok(ask);
    assert_eq!(reply.value2, 4 * MIB);
    let bytes = bench.heap_bytes(reply.value * 16);
    let runs = <[ExtentEntry]>::ref_from_bytes(&bytes).expect("whole entries");
    assert_eq!(runs.iter().map(|run| run.len).sum::<u64>(), 4 * MIB);
    let mut at = 0;
    for run in runs {
        assert!(run.data == 1 || !(at..at + run.len).contains(&MIB) && !(at..at + run.len).contains(&(3 * MIB)));
        at += run.len;
    }
    assert_eq!(bench.ok(Request { buf_len: 15, ..ask }).value, 0);
    assert_eq!(bench.ok(Request { offset: 1 << 50, len: 5, ..ask }).value2, 1 << 50);
}

#[test]
fn what_a_device_is() {
    let bench = Bench::new("stat", &[], 12345);
    let source = bench.ok(request(Op::Stat));
    assert_eq!((source.value, source.value3), (12345, 0), "bytes need no alignment");
    let target = bench.ok(Request { dev: 1, ..request(Op::Stat) });
    assert_eq!((target.value, target.value3 & 0xff), (0, STAT_WRITABLE | STAT_FRESH));
    assert_eq!(target.value3 >> STAT_SAME_FILE_SHIFT & 0xff, 1, "the target is the first device of its file");
}

#[test]
fn names_open_devices_until_the_chain_is_sealed() {
    let bench = Bench::new("named", &[(0, b"abc")], 3);
    std::fs::write(bench.folder.join("below"), b"below").expect("room on the disk");
    bench.memory.fill(bench.heap(), b"below");
    let open = Request { arg: Role::Backing as u32, buf: bench.heap(), buf_len: 5, ..request(Op::OpenNamed) };
    let index = bench.ok(open).value;
    assert_eq!(index, 3);
    let read = Request { dev: index as u32, len: 5, buf: bench.heap() + 100, ..request(Op::Read) };
    assert_eq!(bench.ok(read).value, 5);
    assert_eq!(bench.refused(Request { flags: FLAG_WRITE, ..open }), Status::ReadOnly);
    assert_eq!(bench.refused(Request { arg: 77, ..open }), Status::BadRequest);
    assert_eq!(bench.refused(Request { buf_len: 5000, ..open }), Status::BadBuffer);
    bench.server.sealed.store(true, Ordering::Relaxed);
    assert_eq!(bench.refused(open), Status::Sealed);
}

#[test]
fn a_full_table_takes_no_more() {
    let mut bench = Bench::new("full", &[(0, b"abc")], 3);
    bench.server.table.most = 5;
    bench.memory.fill(bench.heap(), b"below");
    let open = Request { arg: Role::Backing as u32, buf: bench.heap(), buf_len: 6, ..request(Op::OpenNamed) };
    for number in b'0'..=b'8' {
        std::fs::write(bench.folder.join(format!("below{}", char::from(number))), b"below").expect("room on the disk");
        bench.memory.fill(bench.heap() + 5, &[number]);
        if number < b'2' {
            assert_eq!(bench.ok(open).value, u64::from(number - b'0' + 3));
        } else {
            assert_eq!(bench.refused(open), Status::TooMany);
        }
    }
    let open_files = std::fs::read_dir("/proc/self/fd").expect("/proc").filter_map(Result::ok);
    let named = |fd: &std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|at| at.starts_with(&bench.folder));
    assert_eq!(
        open_files
            .filter(named)
            .filter(|fd| { std::fs::read_link(fd.path()).is_ok_and(|at| at.to_string_lossy().contains("below")) })
            .count(),
        2
    );
}

/// A bench whose device 0 may be written and held `content`.
fn over(name: &str, content: &[u8], old: impl Fn(File) -> Old) -> (Bench, PathBuf, Arc<Old>) {
    let mut bench = Bench::new(name, &[(0, b"abc")], 3);
    let path = bench.folder.join("over");
    std::fs::write(&path, content).expect("room on the disk");
    let open = || File::options().read(true).write(true).open(&path).expect("it is there");
    let (file, old) = (open(), Arc::new(old(open())));
    let mode = Mode::Write { growth_limit_bytes: GROWTH };
    let (direct, ignore_flush, maker, parts) = (false, false, None, Parts::NONE);
    let (at, kept) = (path.clone(), Some(Arc::clone(&old)));
    let device =
        Device { file, path: at, mode, fresh: true, direct, contended: false, ignore_flush, maker, parts, old: kept };
    bench.server = Server::new(vec![device], Policy::default(), limits(), &Nobody, 2);
    (bench, path, old)
}

#[test]
fn what_a_target_held_is_not_shown_and_goes_with_the_first_change() {
    let _alone = crate::target::tests::alone();
    for (number, change) in [
        Request { len: 4, buf: 0, ..request(Op::Write) },
        Request { len: 4, ..request(Op::WriteZeroes) },
        Request { len: 4, ..request(Op::SetLength) },
        Request { len: 4, flags: FLAG_FULL, ..request(Op::Allocate) },
        Request { offset2: 0, len: 4, ..request(Op::Copy) },
    ]
    .into_iter()
    .enumerate()
    {
        let (line, mut publisher) = UnixStream::pair().expect("two ends");
        let of_file = |file| Old::of_file(file, line.try_clone().expect("another end"));
        let (bench, path, _old) = over(&format!("over-{number}"), &[7; 9000], of_file);
        let heap = bench.heap();
        let stat = bench.ok(request(Op::Stat));
        assert_eq!((stat.value, stat.value2), (0, 0));
        let read = bench.ok(Request { len: 16, buf: heap, ..request(Op::Read) });
        assert_eq!((read.value, bench.heap_bytes(16)), (0, vec![0; 16]));
        let extents = Request { len: 8192, buf: heap, buf_len: 64, ..request(Op::Extents) };
        assert_eq!(bench.ok(extents).value, 0);
        bench.ok(request(Op::Flush));
        assert_eq!(std::fs::read(&path).expect("it is there"), [7; 9000]);
        let buf = if change.op == Op::Write as u16 { heap } else { 0 };
        bench.ok(Request { buf, ..change });
        assert_eq!(std::fs::read(&path).expect("it is there"), [0; 4], "operation {}", change.op);
        let mut told = [0; 8];
        publisher.read_exact(&mut told).expect("the publisher knows");
    }
}

#[test]
fn the_first_bytes_of_a_device_are_written_last() {
    let (bench, path, old) = over("first", &[7; 10_000], |file| Old::of_device(file, false));
    let (heap, disk) = (bench.heap(), || std::fs::read(&path).expect("it is there"));
    bench.ok(Request { len: 10_000, buf: heap, ..request(Op::Read) });
    assert_eq!((bench.heap_bytes(10_000), disk()), (vec![7; 10_000], vec![7; 10_000]));
    // From 4000 to 4200, over their end; zeroes from 100 to 200; a copy from 4196 to 10.
    bench.memory.fill(heap, &[9; 200]);
    bench.ok(Request { offset: 4000, len: 200, buf: heap, ..request(Op::Write) });
    bench.ok(Request { offset: 100, len: 100, ..request(Op::WriteZeroes) });
    bench.ok(Request { offset: 4196, offset2: 10, len: 8, ..request(Op::Copy) });
    let mut wanted = vec![7; 10_000];
    wanted[4000..4200].fill(9);
    wanted[100..200].fill(0);
    wanted[10..14].fill(9);
    bench.ok(Request { len: 10_000, buf: heap, ..request(Op::Read) });
    assert_eq!(bench.heap_bytes(10_000), wanted);
    assert_eq!((&disk()[..4096], &disk()[4096..]), (&[0; 4096][..], &wanted[4096..]));
    old.end().expect("room on the disk");
    assert_eq!(disk(), wanted);
}

#[test]
fn files_are_made_beside_a_new_one_until_the_chain_is_sealed() {
    let mut bench = Bench::new("beside", &[(0, b"abc")], 3);
    let path = bench.folder.join("new.x");
    let (target, Written { file, fresh, old }) = Target::create(&path, Cache::default(), 0).expect("a new file");
    let mode = Mode::Write { growth_limit_bytes: GROWTH };
    let (direct, ignore_flush, maker) = (false, false, target.maker());
    let new =
        Device { file, path, mode, fresh, direct, contended: false, ignore_flush, maker, parts: Parts::NONE, old };
    let source = bench.folder.join("source");
    let file = File::open(&source).expect("it is there");
    let (path, mode, parts) = (source, Mode::Read, Parts::NONE);
    let read = Device {
        file,
        path,
        mode,
        fresh: false,
        direct,
        contended: false,
        ignore_flush,
        maker: None,
        parts,
        old: None,
    };
    let devices = vec![read, new];
    bench.server = Server::new(devices, Policy::default(), limits(), &Nobody, 2);
    assert!(bench.server.makes_files());
    let make = Request { dev: 1, arg: Beside::SplitFlat as u32, len: 1, ..request(Op::CreateBeside) };
    let index = bench.ok(make).value as u32;
    assert_eq!(index, 2);
    let stat = bench.ok(Request { dev: index, ..request(Op::Stat) });
    assert_eq!((stat.value, stat.value3 & (STAT_FRESH | STAT_WRITABLE)), (0, STAT_FRESH | STAT_WRITABLE));
    bench.ok(Request { dev: index, len: GROWTH, ..request(Op::SetLength) });
    assert_eq!(bench.refused(Request { dev: index, len: GROWTH + 1, ..request(Op::SetLength) }), Status::GrowthLimit);
    for wrong in [
        Request { arg: 0, ..make },
        Request { arg: 99, ..make },
        Request { len: 0, ..make },
        Request { len: 10_001, ..make },
        Request { len: 2, offset: 1, ..make },
        Request { flags: FLAG_WRITE, ..make },
        Request { dev2: 1, ..make },
        Request { buf: bench.heap(), buf_len: 4, ..make },
    ] {
        assert_eq!(bench.refused(wrong), Status::BadRequest, "{wrong:?}");
    }
    assert_eq!(bench.refused(make), Status::Io, "it is there already");
    assert_eq!(bench.refused(Request { dev: 0, ..make }), Status::ReadOnly);
    assert_eq!(bench.refused(Request { dev: index, len: 2, ..make }), Status::BadDevice);
    bench.server.sealed.store(true, Ordering::Relaxed);
    assert_eq!(bench.refused(Request { len: 2, ..make }), Status::Sealed);
    target.publish().expect("published");
    assert_eq!(std::fs::metadata(bench.folder.join("new-f001.x")).expect("it is there").len(), GROWTH);
    assert!(!bench.folder.join("new-f002.x").exists());
}

/// Random requests: whatever is accepted keeps every rule.
#[test]
fn the_checker_accepts_nothing_that_breaks_a_rule() {
    let runs = std::env::var("INSTAR_PROPERTY_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000_000u64);
    let bench = Bench::new("property", &[], 4096);
    let (heap, heap_len) = (bench.heap(), bench.memory.layout().heap_len);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut accepted = 0u64;
    for _ in 0..runs {
        let op = random() % 24;
        // Most of the fields are of the kind that passes, so that the deeper checks are reached.
        let mut near = |likely: [u64; 4]| match random() % 64 {
            0 => random(),
            1 => u64::MAX - random() % 4096,
            2 => i64::MAX as u64 - random() % 4096,
            3..24 => 0,
            n => likely[n as usize % 4],
        };
        let asked = Request {
            op: op as u16,
            flags: near([0, 0, 0, 1]) as u16,
            dev: near([0, 1, 1, 0]) as u32,
            offset: near([0, 512, 4096, GROWTH]),
            len: near([0, 1, 4096, GROWTH]),
            buf: near([0, heap, heap + heap_len - 4096, heap + heap_len]),
            buf_len: near([0, 0, 512, 4096]),
            dev2: near([0, 0, 1, 1]) as u32,
            arg: near([0, 1, 512, 4096]) as u32,
            offset2: near([0, 0, 512, GROWTH]),
            reserved: near([0; 4]),
        };
        let Ok(checked) = check::check(&asked, &bench.server.table, &bench.memory) else { continue };
        if checked.grows_to().is_some_and(|(slot, end)| !bench.server.table.grant(slot, end)) {
            continue;
        }
        accepted += 1;
        assert_eq!(asked.reserved, 0);
        assert_eq!(checked.op as u16, asked.op);
        let end = asked.offset.checked_add(asked.len);
        assert!(checked.op == Op::Progress || end.is_some_and(|end| end <= i64::MAX as u64), "{asked:?}");
        assert!(asked.offset2.checked_add(asked.len).is_some(), "{asked:?}");
        let buffer = if checked.op == Op::Read || checked.op == Op::Write { asked.len } else { asked.buf_len };
        assert_eq!(checked.buf.len() as u64, buffer, "{asked:?}");
        let inside = asked.buf >= heap && asked.buf.checked_add(buffer).is_some_and(|end| end <= heap + heap_len);
        assert!(inside || buffer == 0, "{asked:?}");
        let changes = |dev: u32, end: Option<u64>| {
            assert_eq!(dev, 1, "{asked:?}");
            assert!(end.is_some_and(|end| end <= GROWTH), "{asked:?}");
        };
        match checked.op {
            Op::Write | Op::WriteZeroes | Op::Allocate | Op::SetLength => changes(asked.dev, end),
            Op::Copy => changes(asked.dev2, asked.offset2.checked_add(asked.len)),
            Op::Discard | Op::Flush => assert_eq!(asked.dev, 1, "{asked:?}"),
            Op::CreateBeside => {
                assert_eq!((asked.dev, asked.offset, asked.buf_len), (1, 0, 0), "{asked:?}");
                assert!((1..=3).contains(&asked.arg) && (1..=1000).contains(&asked.len), "{asked:?}");
            }
            _ => assert!(asked.dev < 3 && asked.dev2 < 3, "{asked:?}"),
        }
    }
    assert!(accepted > runs / 1000, "only {accepted} were accepted");
}
