//! Copies from device to device, and what becomes of zeroes.

use super::*;

#[test]
fn copies_leave_zeroes_out_where_asked() {
    let data = vec![7u8; 3 * 4096];
    let mut gaps = vec![0u8; 16 * 4096];
    gaps[4096..2 * 4096].fill(1);
    gaps[9 * 4096 + 5] = 2;
    let bench = Bench::new("copy", &[(0, &data), (MIB, &gaps), (3 * MIB, b"end")], 4 * MIB);
    let sparse = copying(0, 4 * MIB).tap(|r| (r.flags, r.arg) = (FLAG_SKIP_ZERO, 4096));
    let written = bench.ok(sparse).value;
    assert_eq!(written, 3 * 4096 + 2 * 4096 + 4096);
    bench.ok(Request { dev: 1, len: 4 * MIB, ..request(Op::SetLength) });
    assert_eq!(bench.target(), std::fs::read(bench.folder.join("source")).expect("it is there"));
    assert!(std::fs::metadata(bench.folder.join("target")).expect("it is there").blocks() * 512 < MIB);
}

#[test]
fn copies_make_room_of_zeroes_where_asked() {
    let mut data = vec![0u8; 16 * 4096];
    data[4096..2 * 4096].fill(1);
    data[9 * 4096 + 5] = 2;
    let bench = Bench::new("copy-unmap", &[(0, &data)], MIB);
    for at in (0..MIB).step_by(8192) {
        bench.memory.fill(bench.heap(), &[9; 8192]);
        bench.ok(Request { dev: 1, offset: at, len: 8192, buf: bench.heap(), ..request(Op::Write) });
    }
    let flags = FLAG_SKIP_ZERO | FLAG_UNMAP;
    bench.ok(copying(0, MIB).tap(|r| (r.flags, r.arg) = (flags, 4096)));
    let mut source = std::fs::read(bench.folder.join("source")).expect("it is there");
    source.resize(MIB as usize, 0);
    assert!(bench.target() == source);
    assert!(std::fs::metadata(bench.folder.join("target")).expect("it is there").blocks() * 512 <= 16384);
    bench.refused(copying(0, MIB).tap(|r| r.flags = FLAG_UNMAP));
}

#[test]
fn copies_write_everything_else() {
    let bench = Bench::new("copy-all", &[(5, b"abc")], 5000);
    bench.memory.fill(bench.heap(), &[9; 8192]);
    bench.ok(Request { dev: 1, len: 8192, buf: bench.heap(), ..request(Op::Write) });
    assert_eq!(bench.ok(copying(0, 6000)).value, 6000);
    let target = bench.target();
    assert_eq!((&target[5..8], &target[5000..6000], target[6000]), (&b"abc"[..], &[0; 1000][..], 9));
    assert!(target[8..5000].iter().all(|b| *b == 0));
}
