use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::compare::Found;
use super::convert::{Convert, TargetParams};
use super::info::{BlockLimits, ChildInfo, FormatSpecific, ImageInfo, InfoResults, SnapshotInfo};
use super::map::MapRecord;
use super::{Caller, Entries, Failure, FailureKind, ImageParams, Pair, Record, Told, Wrong, entries, stream};
use crate::record::{Value, decode};

fn over_the_wire(sent: Entries) -> Entries {
    entries(decode(&stream(&sent)).expect("it decodes"))
}

fn image() -> ImageParams {
    let options = vec![Pair { key: "size".into(), value: "1".into() }];
    ImageParams { device: 3, filename: b"a\xff".into(), format: Some("raw".into()), options, ..ImageParams::default() }
}

#[test]
fn parameters_survive_the_wire() {
    let target = TargetParams { image: image(), existing: true, ..TargetParams::default() };
    let sent = Convert { sources: vec![image(), image()], target, sparse: 0, ..Convert::default() };
    let caller = Caller { operation: "convert".into(), version_major: Some(10), ..Caller::default() };
    let mut all = caller.clone().into_entries();
    sent.clone().put(&mut all);
    let mut got = over_the_wire(all);
    assert_eq!(Caller::take(&mut got), Ok(caller));
    assert_eq!(Convert::from_entries(got), Ok(sent));
}

#[test]
fn results_survive_the_wire() {
    let file = ImageInfo { filename: b"x".into(), format: "file".into(), ..ImageInfo::default() };
    let limits = BlockLimits {
        write_zeroes_alignment: None,
        discard_alignment: Some(1),
        request_alignment: 1,
        min_mem_alignment: 2,
        opt_mem_alignment: 3,
        max_iov: 4,
    };
    let mut data = Value::map();
    data.set("whatever", 1u64);
    let sent = ImageInfo {
        dirty_flag: Some(false),
        limits: Some(limits),
        format_specific: Some(FormatSpecific { kind: "x".into(), data }),
        children: Some(vec![ChildInfo { name: "file".into(), info: file.clone() }]),
        ..file
    };
    assert_eq!(ImageInfo::from_entries(over_the_wire(sent.clone().into_entries())), Ok(sent));
}

#[test]
fn what_is_wrong_is_told() {
    let of = |change: &dyn Fn(&mut Value)| {
        let mut value = Found { smaller: 1, ..Found::default() }.into_value();
        change(&mut value);
        Found::from_entries(entries(value))
    };
    assert_eq!(of(&|_| ()).map(|found| found.smaller), Ok(1));
    assert_eq!(of(&|value| drop(value.set("smaller", 2u64).clone())), Err(Wrong::Twice("smaller")));
    assert_eq!(of(&|value| drop(value.set("status-at", true).clone())), Err(Wrong::Unfit("status-at")));
    assert_eq!(of(&|value| drop(value.set("x", true).clone())), Err(Wrong::Unknown("x".into())));
    assert_eq!(Found::from_entries(Entries::new()), Err(Wrong::Missing("smaller")));
    assert_eq!(Wrong::unknown(&"ä".repeat(1000)), Wrong::Unknown("ä".repeat(64)));
    let failure = |kind: &str| {
        let mut value = Value::map();
        value.set("message", "m").set("kind", kind);
        Failure::from_entries(entries(value)).map(|failure| failure.kind)
    };
    assert_eq!(failure("refused"), Ok(FailureKind::Refused));
    assert_eq!(
        failure("Refused").map_err(|wrong| wrong.to_string()),
        Err("'kind' has a value that does not fit".into())
    );
    let wide = Value::Map(vec![("device".into(), Value::U64(1 << 32))]);
    assert_eq!(ImageParams::from_entries(entries(wide)), Err(Wrong::Unfit("device")));
}

#[test]
fn lists_that_come_in_pieces_are_one() {
    let warning = |text: &str| Told { warnings: vec![text.into()], ..Told::default() }.into_entries();
    let all = [warning("a"), Told::default().into_entries(), warning("b")].concat();
    assert_eq!(all.len(), 2);
    assert_eq!(Told::from_entries(all).map(|told| told.warnings), Ok(vec![Vec::from("a"), Vec::from("b")]));
}

#[test]
fn records_of_a_map_are_their_bytes() {
    let record = MapRecord { start: 1, len: 2, offset: 3, depth: 4, bits: 5, file: 6 };
    let expected: [&[u8]; 6] =
        [&1u64.to_le_bytes(), &2u64.to_le_bytes(), &3u64.to_le_bytes(), &4u32.to_le_bytes(), &[5, 0], &[6, 0]];
    assert_eq!(record.to_bytes().as_slice(), expected.concat());
    assert_eq!(MapRecord::from_bytes(record.to_bytes()), record);
}

/// Whatever becomes of the bytes, reading them ends, in an error or in another struct.
#[test]
fn damaged_results_are_read_to_an_end() {
    let child = ChildInfo { name: "file".into(), info: ImageInfo::default() };
    let snapshot = SnapshotInfo { id: b"1".into(), icount: Some(1), ..SnapshotInfo::default() };
    let image = ImageInfo { children: Some(vec![child]), snapshots: Some(vec![snapshot]), ..ImageInfo::default() };
    let whole = stream(&InfoResults { images: vec![image] }.into_entries());
    let (mut undecoded, mut unread, mut read) = (0, 0, 0);
    for at in 0..whole.len() {
        for value in [0, 1, 5, 6, 7, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            match decode(&bytes).map(|tree| InfoResults::from_entries(entries(tree))) {
                Err(_) => undecoded += 1,
                Ok(Err(_)) => unread += 1,
                Ok(Ok(_)) => read += 1,
            }
        }
    }
    assert!(undecoded > 0 && unread > 0 && read > 0, "{undecoded}, {unread}, {read}");
}
