//! What a guest can have the host say: results, messages and progress, as much of them as it likes.

use alloc::vec::Vec;

use instar_abi::boot::BootInfo;
use instar_abi::ops::info::{ChildInfo, ImageInfo, InfoResults};
use instar_abi::ops::{self, Record};
use instar_abi::record::{self, Kind};
use instar_abi::ring::{LOG_LINES, LOG_RECORDS, Op, Request, Status};
use instar_entry::RingMachine;
use instar_image::Value;

/// As much as the host takes of results, nearly.
const RESULTS: usize = (8 << 20) - (64 << 10);
/// Longest text that the host takes at once.
const TEXT: usize = 64 << 10;

fn request(op: Op, bytes: &[u8]) -> Request {
    Request { op: op as u16, buf: bytes.as_ptr() as u64, buf_len: bytes.len() as u64, ..Request::default() }
}

fn emit(machine: &RingMachine, bytes: &[u8]) {
    machine.raw_call(request(Op::Emit, bytes));
}

/// A record of 8 bytes, or of 16 with a key.
fn mark(kind: Kind, key: &str) -> Vec<u8> {
    let mut bytes = alloc::vec![kind as u8, 0, key.len() as u8, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(key.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A list of the same again and again.
fn list(machine: &RingMachine, key: &str, element: &[u8]) -> u8 {
    emit(machine, &mark(Kind::List, key));
    let piece = element.repeat(TEXT / element.len());
    for _ in 0..RESULTS / piece.len() {
        emit(machine, &piece);
    }
    emit(machine, &mark(Kind::Close, ""));
    0
}

/// An image's record in a list takes 16 bytes, and a node.
fn empty_map() -> Vec<u8> {
    [mark(Kind::Map, ""), mark(Kind::Close, "")].concat()
}

/// Half a million images of which nothing is said.
pub fn nothing(machine: &RingMachine, _: &BootInfo) -> u8 {
    list(machine, "images", &empty_map())
}

/// As many images as there is room for, of which no more is said than has to be.
pub fn images(machine: &RingMachine, _: &BootInfo) -> u8 {
    let mut image = Vec::new();
    record::encode(&mut image, "", &ImageInfo::default().into_value());
    list(machine, "images", &image)
}

/// A million images that are empty texts.
pub fn elements(machine: &RingMachine, _: &BootInfo) -> u8 {
    list(machine, "images", &mark(Kind::Bytes, ""))
}

/// Half a million warnings of one character.
pub fn warnings(machine: &RingMachine, _: &BootInfo) -> u8 {
    let mut warning = Vec::new();
    record::encode(&mut warning, "", &Value::from("x"));
    list(machine, "warnings", &warning)
}

/// One warning of all that may be told.
pub fn long_warning(machine: &RingMachine, _: &BootInfo) -> u8 {
    let mut list = Vec::new();
    record::encode(&mut list, "warnings", &Value::from(alloc::vec![Value::from(alloc::vec![7u8; RESULTS])]));
    emit(machine, &list);
    0
}

/// An image with a child of a very long name, which has as many children as there is room for: each is shown by the
/// names of all above it.
pub fn paths(machine: &RingMachine, _: &BootInfo) -> u8 {
    let child = ChildInfo { name: "x".into(), info: ImageInfo::default() };
    let inner = ImageInfo { children: Some(alloc::vec![child; 30_000]), ..ImageInfo::default() };
    let outer = ChildInfo { name: "n".repeat(1 << 20), info: inner };
    one(machine, ImageInfo { children: Some(alloc::vec![outer]), ..ImageInfo::default() })
}

fn one(machine: &RingMachine, image: ImageInfo) -> u8 {
    emit(machine, &ops::stream(&InfoResults { images: alloc::vec![image] }.into_entries()));
    0
}

/// Text for JSON that grows to six times its length.
pub fn escapes(machine: &RingMachine, _: &BootInfo) -> u8 {
    one(machine, ImageInfo { filename: alloc::vec![7u8; RESULTS], ..ImageInfo::default() })
}

/// Tells again and again until the host no longer listens.
fn tell(machine: &RingMachine, level: u32, bytes: &[u8]) -> ! {
    let log = Request { arg: level, ..request(Op::Log, bytes) };
    loop {
        machine.raw_batch(&[log; 16]);
    }
}

/// Lines of control characters for standard error.
pub fn lines(machine: &RingMachine, _: &BootInfo) -> u8 {
    tell(machine, LOG_LINES, &alloc::vec![7; TEXT])
}

/// The same of nothing.
pub fn no_lines(machine: &RingMachine, _: &BootInfo) -> u8 {
    tell(machine, LOG_LINES, &alloc::vec![7; 1][..0])
}

/// Records for `map`, with names of control characters that are as long as can be.
pub fn map_names(machine: &RingMachine, _: &BootInfo) -> u8 {
    const STORED: u64 = 0b1_0101;
    let names = alloc::vec![7; TEXT];
    machine.raw_call(Request { arg: LOG_RECORDS, ..request(Op::Log, &names) });
    let record: Vec<u8> = [0, 512, 512, STORED << 32].iter().flat_map(|n: &u64| n.to_le_bytes()).collect();
    tell(machine, LOG_RECORDS, &record.repeat(TEXT / record.len()))
}

/// More and more than all is done.
pub fn progress(machine: &RingMachine, _: &BootInfo) -> u8 {
    for done in 0u64.. {
        let progress = Request { offset: done, len: 1, ..request(Op::Progress, &[]) };
        let progress = Request { buf: 0, ..progress };
        if machine.raw_call(progress).status != Status::Ok as u32 {
            break;
        }
    }
    1
}

/// One batch that reads all of the heap 256 times.
pub fn reads(machine: &RingMachine, boot: &BootInfo) -> u8 {
    let all = Request { op: Op::Read as u16, buf: boot.heap, len: boot.heap_len, ..Request::default() };
    machine.raw_batch(&[all; 250]);
    0
}
