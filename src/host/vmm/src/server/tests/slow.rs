//! Devices that are waited for: their requests go in pieces, to several threads.

use super::*;

/// The devices are taken for slow ones, and `helpers` threads help; the replies to one batch.
fn deep(bench: &Bench, helpers: usize, requests: &[Request]) -> Vec<Reply> {
    for device in 0..2 {
        bench.server.table.get(device).expect("it is there").pace.waited();
    }
    let depth = Depth::default();
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| bench.server.assist(&depth));
        }
        bench.put(requests);
        let served = bench.server.serve(0, &bench.memory, &depth);
        depth.close();
        assert_eq!(served, Served::Continue);
    });
    bench.replies(requests.len())
}

/// Bytes that nowhere repeat within a few pieces, with zeroes in between.
fn content(len: usize) -> Vec<u8> {
    let byte = |at: usize| if at / 65536 % 5 == 3 { 0 } else { (at * 7 + at / 4093) as u8 | 1 };
    (0..len).map(byte).collect()
}

#[test]
fn pieces_come_to_the_same_as_the_whole() {
    let source = content(5 * MIB as usize + 777);
    let len = source.len() as u64;
    for helpers in [0, 1, 5] {
        let bench = Bench::new(&format!("deep-{helpers}"), &[(0, &source)], len);
        let sparse = |r: &mut Request| (r.flags, r.arg) = (FLAG_SKIP_ZERO, 65536);
        let read = Request { offset: 1000, len: 6 * MIB, buf: bench.heap(), ..request(Op::Read) };
        let replies = deep(&bench, helpers, &[copying(0, 7 * MIB).tap(sparse), read]);
        assert_eq!((replies[0].status, replies[1].status), (0, 0));
        assert_eq!(replies[1].value, len - 1000);
        assert!(bench.heap_bytes(len - 1000) == source[1000..]);
        assert!(bench.heap_bytes(6 * MIB)[source.len() - 1000..].iter().all(|byte| *byte == 0));
        let written: u64 = source.chunks(65536).filter(|unit| unit.iter().any(|b| *b != 0)).map(|_| 65536).sum();
        assert!(written.abs_diff(replies[0].value) < 65536, "{} of {written}", replies[0].value);
        assert!(bench.target()[..source.len()] == source);
        let write = Request { dev: 1, offset: 3, len: 3 * MIB, buf: bench.heap(), ..request(Op::Write) };
        assert_eq!(deep(&bench, helpers, &[write])[0].status, 0);
        assert!(bench.target()[3..3 + 3 * MIB as usize] == source[1000..1000 + 3 * MIB as usize]);
    }
}

#[test]
fn a_comparison_ends_at_the_first_difference() {
    let mut source = content(4 * MIB as usize);
    let bench = Bench::new("deep-compare", &[(0, &source)], 4 * MIB);
    deep(&bench, 3, &[copying(0, 4 * MIB)]);
    let compare = Request { len: 6 * MIB, dev2: 1, ..request(Op::Compare) };
    assert_eq!(deep(&bench, 3, &[compare])[0].value, 6 * MIB);
    for at in [3 * MIB as usize + 5, 600_000, 524_288, 524_287, 0] {
        source[at] ^= 0x40;
        std::fs::write(bench.folder.join("source"), &source).expect("room on the disk");
        assert_eq!(deep(&bench, 3, &[compare])[0].value, at as u64);
    }
}

#[test]
fn a_copy_says_how_far_it_came() {
    let bench = Bench::new("deep-broken", &[(0, &content(4 * MIB as usize))], 4 * MIB);
    // Nothing can be written to it any more.
    let closed = File::open(bench.folder.join("target")).expect("it is there");
    let device = Device { fresh: false, ..Device::new(closed, PathBuf::from("/closed"), WRITE) };
    let index = bench.server.table.push(device, 0, None).expect("there is room");
    let reply = deep(&bench, 3, &[copying(0, 4 * MIB).tap(|r| r.dev2 = index)])[0];
    assert_eq!(Status::from_wire(reply.status), Some(Status::Io));
    assert_eq!((reply.errno, reply.value, reply.value2), (libc::EBADF as u32, 0, 1));
}

#[test]
fn nothing_is_begun_behind_a_piece_that_failed() {
    let bench = Bench::new("deep-failed", &[(0, &content(4 * MIB as usize))], 4 * MIB);
    let parts = |requests: &[Request]| {
        let mut all = Vec::new();
        let checked =
            requests.iter().map(|r| check::check(r, &bench.server.table, &bench.memory).expect("it is right"));
        let counts: Vec<usize> = checked.map(|request| pieces::cut(&request, &mut all)).collect();
        (Batch::new(all, counts.iter().copied()), counts)
    };
    let (batch, counts) = parts(&[copying(0, 2 * MIB), copying(2 * MIB, MIB)]);
    assert_eq!(counts, [4, 2]);
    let begun = || batch.claim(&bench.server.aborted);
    // Somebody is still at work on what comes before.
    let (first, second) = (begun().expect("four wait"), begun().expect("three wait"));
    second.done(Err(Reply { value: 7, value2: 1, ..exec::failed(&std::io::Error::from_raw_os_error(libc::EIO)) }));
    begun().expect("the other request waits").done(Ok(Reply::default()));
    begun().expect("its second piece waits").done(Ok(Reply::default()));
    assert!(begun().is_none());
    first.done(Ok(Reply { value: 9, ..Reply::default() }));
    let mut outcomes = batch.outcomes();
    let reply = pieces::join(&batch.pieces[..4], &mut outcomes[..4]).expect("it is said");
    assert_eq!((reply.errno, reply.value, reply.value2), (libc::EIO as u32, 512 * 1024 + 7, 1));
    assert!(pieces::join(&batch.pieces[4..], &mut outcomes[4..]).is_some());
    let compare = Request { len: 4 * MIB, dev2: 1, ..request(Op::Compare) };
    let (batch, _) = parts(&[compare]);
    let third = batch.claim_one(2, &bench.server.aborted).expect("nobody has it");
    third.done(Ok(Reply { value: 5, ..Reply::default() }));
    let left = std::iter::from_fn(|| batch.claim(&bench.server.aborted).map(|c| c.done(Ok(whole(512 * 1024)))));
    assert_eq!(left.count(), 2);
    assert_eq!(pieces::join(&batch.pieces, &mut batch.outcomes()).map(|r| r.value), Some(MIB + 5));
    assert!(batch.claim_one(7, &bench.server.aborted).is_none());
}

fn whole(value: u64) -> Reply {
    Reply { value, ..Reply::default() }
}

const WRITE: Mode = Mode::Write { growth_limit_bytes: GROWTH };

#[test]
fn a_new_file_past_the_page_cache_is_longer_only_while_it_is_written() {
    let source = content(3 * MIB as usize + 512);
    let bench = Bench::new("deep-ahead", &[(0, &source)], source.len() as u64);
    let path = bench.folder.join("direct");
    let open = File::options().read(true).write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&path);
    // Not every file system has it.
    let Ok(file) = open else { return };
    let device = Device { fresh: true, direct: true, ..Device::new(file, path.clone(), WRITE) };
    let to = bench.server.table.push(device, 0, None).expect("there is room");
    let len = || std::fs::metadata(&path).expect("it is there").len();
    let copy = copying(0, source.len() as u64).tap(|r| r.dev2 = to);
    assert_eq!(deep(&bench, 3, &[copy])[0].status, 0);
    assert_eq!(len(), 64 * MIB);
    let read = Request { dev: to, offset: 3 * MIB, len: MIB, buf: bench.heap(), ..request(Op::Read) };
    assert_eq!(bench.ok(read).value, 512);
    assert!(bench.heap_bytes(512) == source[3 * MIB as usize..]);
    assert!(bench.heap_bytes(MIB)[512..].iter().all(|byte| *byte == 0));
    bench.ok(Request { dev: to, ..request(Op::Flush) });
    assert_eq!(len(), source.len() as u64);
    let zeroes = Request { dev: to, offset: 4 * MIB, len: 4096, ..request(Op::WriteZeroes) };
    bench.ok(zeroes);
    assert_eq!(len(), 4 * MIB + 4096);
    bench.ok(copying(0, 4096).tap(|r| (r.dev2, r.offset2) = (to, 5 * MIB)));
    bench.ok(Request { offset: 6 * MIB, ..zeroes });
    bench.server.finish().expect("it can be cut");
    assert_eq!(len(), 6 * MIB + 4096);
}

#[test]
fn what_overlaps_is_copied_in_order() {
    let source = content(2 * MIB as usize);
    let bench = Bench::new("deep-overlap", &[(0, &source)], 2 * MIB);
    deep(&bench, 3, &[copying(0, 2 * MIB)]);
    let down = Request { dev: 1, dev2: 1, offset: MIB / 2, len: 3 * MIB / 2, ..request(Op::Copy) };
    assert_eq!(deep(&bench, 3, &[down])[0].status, 0);
    assert!(bench.target()[..3 * MIB as usize / 2] == source[MIB as usize / 2..]);
}

#[test]
fn what_is_not_begun_when_the_run_is_over_is_left() {
    let bench = Bench::new("deep-over", &[(0, &content(MIB as usize))], MIB);
    bench.server.abort();
    bench.put(&[copying(0, MIB)]);
    assert_eq!(bench.server.serve(0, &bench.memory, &Depth::default()), Served::Aborted);
    assert!(bench.target().is_empty());
}
