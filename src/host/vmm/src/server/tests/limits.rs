//! What a guest may tell and take, and how a run ends.

use super::*;
use instar_abi::ring::LOG_RECORDS;

#[test]
fn results_are_bounded_and_the_end_is_the_end() {
    let bench = Bench::new("emit", &[], 1);
    bench.memory.fill(bench.heap(), &[b'r'; 60]);
    let emit = Request { buf: bench.heap(), buf_len: 60, ..request(Op::Emit) };
    bench.ok(emit);
    assert!(matches!(bench.batch(&[emit]).0, Served::Limit { flag: "--max-results", .. }));
    assert_eq!(bench.batch(&[Request { arg: 3, ..request(Op::Finish) }]).0, Served::Finished(3));
    assert_eq!(bench.refused(Request { arg: 256, ..request(Op::Finish) }), Status::BadRequest);
    let panic = Request { buf: bench.heap(), buf_len: 3, ..request(Op::Panic) };
    assert_eq!(bench.batch(&[panic]).0, Served::Panicked("rrr".into()));
    assert!(matches!(bench.batch(&[]).0, Served::Broke(_)));
    bench.memory.fill(bench.memory.layout().rings, &100_000u32.to_le_bytes());
    assert!(matches!(bench.server.serve(0, &bench.memory, &Depth::default()), Served::Broke(_)));
    bench.server.abort();
    assert_eq!(bench.batch(&[emit]).0, Served::Aborted);
}

#[test]
fn messages_and_what_is_shown_are_bounded() {
    let bench = Bench::new("log", &[], 1);
    bench.memory.fill(bench.heap(), &[b'm'; 400]);
    let log = |arg, buf_len| Request { arg, buf: bench.heap(), buf_len, ..request(Op::Log) };
    for (arg, max, flag) in [(LOG_LINES, 500, "--max-messages"), (LOG_RECORDS, 1000, "--max-results")] {
        bench.ok(log(arg, max - 101));
        bench.ok(log(arg, 100));
        assert!(matches!(bench.batch(&[log(arg, 100)]).0, Served::Limit { flag: f, .. } if f == flag));
        // One byte is left, and an empty text takes it.
        bench.ok(log(arg, 0));
        assert!(matches!(bench.batch(&[log(arg, 0)]).0, Served::Limit { .. }));
    }
    assert_eq!(bench.refused(log(0, 400)), Status::BadRequest, "there is no such level");
}

#[test]
fn a_batch_is_cut_when_the_run_is_over() {
    /// Stops at its third request until the run is over.
    struct Stops(AtomicU64, std::sync::Barrier);
    impl Observer for Stops {
        fn progress(&self, _done: u64, _total: u64) {
            if self.0.fetch_add(1, Ordering::Relaxed) == 2 {
                self.1.wait();
                self.1.wait();
            }
        }
        fn log(&self, _level: u32, _text: &[u8]) -> u64 {
            0
        }
    }
    static STOPS: Stops = Stops(AtomicU64::new(0), std::sync::Barrier::new(2));
    let mut bench = Bench::new("cut", &[], 1);
    bench.server.observer = &STOPS;
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| bench.batch(&[request(Op::Progress); 200]).0);
        STOPS.1.wait();
        bench.server.abort();
        STOPS.1.wait();
        assert_eq!(worker.join().expect("no panic"), Served::Aborted);
    });
    assert_eq!(STOPS.0.load(Ordering::Relaxed), 3);
}

/// A file with more runs than one would wait for: what was found until then is told, and no more is asked.
#[test]
fn extents_end_with_the_run() {
    let bench = Bench::new("extents-cut", &[(0, b"x"), (1 << 20, b"x"), (2 << 20, b"x")], 3 << 20);
    let slot = bench.server.table.get(0).expect("it is there");
    let entries = |over: bool| {
        let wanted = Request { len: 3 << 20, buf: bench.heap(), buf_len: 4096, ..request(Op::Extents) };
        let checked = check::check(&wanted, &bench.server.table, &bench.memory).expect("it is in order");
        exec::extents(&slot, &checked, &AtomicBool::new(over)).map(|reply| reply.value)
    };
    assert_eq!((entries(false), entries(true)), (Ok(6), Ok(0)));
}

#[test]
fn the_number_of_requests_is_bounded() {
    let bench = Bench::with("count", &[], 1, Limits { requests: Some(5), ..limits() });
    let stat = request(Op::Stat);
    assert_eq!(bench.batch(&[stat; 5]).0, Served::Continue);
    assert!(matches!(bench.batch(&[stat]).0, Served::Limit { flag: "--max-requests", .. }));
}

#[test]
fn sleepers_wake_each_other_and_are_released_at_the_end() {
    let bench = Bench::new("wait", &[], 1);
    bench.ok(Request { arg: 0, ..request(Op::Wake) });
    bench.ok(request(Op::Wait));
    bench.ok(Request { len: 1000, ..request(Op::Wait) });
    assert_eq!(bench.refused(Request { arg: 2, ..request(Op::Wake) }), Status::BadRequest);
    assert_eq!(bench.refused(Request { offset: 1, ..request(Op::Wait) }), Status::BadRequest);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| bench.batch(&[request(Op::Wait)]).0);
        std::thread::sleep(Duration::from_millis(20));
        bench.server.abort();
        assert_eq!(sleeper.join().expect("no panic"), Served::Aborted);
    });
}

#[test]
fn the_clock_goes_on() {
    let bench = Bench::new("clock", &[], 1);
    let before = bench.ok(request(Op::Clock)).value;
    std::thread::sleep(Duration::from_millis(2));
    assert!(bench.ok(request(Op::Clock)).value >= before + 2_000_000);
    assert_eq!(bench.refused(Request { arg: 1, ..request(Op::Clock) }), Status::BadRequest);
}

#[test]
fn a_long_request_ends_with_the_run() {
    let bench = Bench::new("long", &[], 1);
    let slot = bench.server.table.get(1).expect("it is there");
    let over = AtomicBool::new(true);
    let error = bulk::write_plain_zeroes(&slot, 0, 1 << 60, &over).expect_err("it was ended");
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
}

#[test]
fn a_rate_limit_does_not_outlast_the_run() {
    struct Slow;
    impl Observer for Slow {
        fn progress(&self, _done: u64, _total: u64) {}
        fn delay(&self, _done: u64) -> Duration {
            Duration::MAX
        }
        fn log(&self, _level: u32, _text: &[u8]) -> u64 {
            0
        }
    }
    let mut bench = Bench::new("rate", &[], 1);
    bench.server.observer = &Slow;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bench.batch(&[request(Op::Progress)]).0);
        std::thread::sleep(Duration::from_millis(30));
        bench.server.abort();
        assert_eq!(waiting.join().expect("no panic"), Served::Aborted);
    });
}
