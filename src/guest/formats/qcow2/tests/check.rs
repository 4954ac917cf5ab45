//! `check` on images built by hand, as the specification says they are.

mod fixture;

use fixture::{CLUSTER, COMPRESSED, COPIED, DATA, Fixture, L1, L2, REFCOUNT_TABLE};
use instar_format_qcow2::Qcow2;
use instar_format_qcow2::layout::field;
use instar_image::{CheckContext, CheckReport, Findings, Format, OpenContext, Purpose, Result, Source, Version};
use instar_sim::Machine;

const BLOCK: u64 = 2 * CLUSTER;

#[derive(Default)]
struct Lines(Vec<String>);

impl Findings for Lines {
    fn line(&mut self, text: &str) -> Result<()> {
        self.0.push(text.to_string());
        Ok(())
    }

    fn error(&mut self, text: &str) -> Result<()> {
        self.line(&format!("program: {text}"))
    }
}

/// Three clusters of data, each with a count of one.
fn sound() -> Fixture {
    let mut image = Fixture::new();
    image.extensions(&[(0x1234_5678, b"unknown")]);
    image.l2(&[DATA | COPIED, (DATA + CLUSTER) | COPIED, 0, (DATA + 2 * CLUSTER) | COPIED]);
    image.be64(REFCOUNT_TABLE as usize, BLOCK);
    for cluster in 0..8 {
        count(&mut image, cluster, 1);
    }
    image.put((8 * CLUSTER - 1) as usize, &[0]);
    image
}

fn count(image: &mut Fixture, cluster: usize, count: u16) {
    image.put(BLOCK as usize + 2 * cluster, &count.to_be_bytes());
}

fn check(image: &Fixture) -> (Result<CheckReport>, Vec<String>) {
    let machine = Machine::new();
    let device = machine.add(&image.bytes);
    let source: &dyn Source = &machine;
    let cx = OpenContext {
        source,
        opener: Some(&machine),
        device,
        name: b"image",
        version: Version::default(),
        purpose: Purpose::Check,
        options: &[],
    };
    let opened = Qcow2.open(cx).expect("it opens");
    let mut lines = Lines::default();
    let report = opened.check(CheckContext { machine: &machine, findings: &mut lines }).expect("qcow2 has a check");
    (report, lines.0)
}

fn counted(image: &Fixture) -> ((u64, u64, u64), Vec<String>) {
    let (report, lines) = check(image);
    let report = report.expect("it is checked");
    ((report.corruptions, report.leaks, report.check_errors), lines)
}

#[test]
fn a_sound_image() {
    let (report, lines) = check(&sound());
    let report = report.expect("it is checked");
    assert!(lines.is_empty());
    assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0));
    assert_eq!((report.allocated_clusters, report.total_clusters, report.fragmented_clusters), (3, 160, 0));
    assert_eq!(report.image_end_offset, Some(8 * CLUSTER));
}

#[test]
fn a_leak_and_a_missing_reference() {
    let mut image = sound();
    count(&mut image, 6, 0);
    count(&mut image, 8, 3);
    image.put((9 * CLUSTER - 1) as usize, &[0]);
    let (counts, lines) = counted(&image);
    assert_eq!(counts, (2, 1, 0));
    let data = (DATA + CLUSTER) | COPIED;
    assert_eq!(
        lines,
        [
            "ERROR cluster 6 refcount=0 reference=1".to_string(),
            "Leaked cluster 8 refcount=3 reference=0".to_string(),
            format!("ERROR OFLAG_COPIED data cluster: l2_entry={data:x} refcount=0"),
        ]
    );
}

#[test]
fn one_cluster_twice() {
    let mut image = sound();
    image.be64(L2 as usize + 16, DATA | COPIED);
    let (counts, lines) = counted(&image);
    assert_eq!(counts, (1, 0, 0));
    assert_eq!(lines, ["ERROR cluster 5 refcount=1 reference=2"]);
}

#[test]
fn the_header_as_data() {
    let mut image = sound();
    image.be64(L2 as usize + 16, L1 | COPIED);
    assert_eq!(counted(&image).1, ["ERROR cluster 3 refcount=1 reference=2"]);
}

#[test]
fn behind_the_end() {
    let mut image = sound();
    image.be64(L2 as usize + 16, (100 * CLUSTER) | COPIED);
    let (counts, lines) = counted(&image);
    assert_eq!(counts, (2, 0, 0));
    assert!(lines[0].ends_with("offset 0x640000 size 0x10000"), "{lines:?}");
    assert!(lines[1].contains("OFLAG_COPIED data cluster"), "{lines:?}");
}

#[test]
fn compressed_clusters_share_one() {
    let mut image = sound();
    // Two of 512 bytes each in cluster 8, which is counted twice; the third reaches behind the end of the file.
    let at = 8 * CLUSTER;
    image.be64(L2 as usize + 16, COMPRESSED | at).be64(L2 as usize + 32, COMPRESSED | (at + 512));
    count(&mut image, 8, 2);
    image.put((at + 1023) as usize, &[0]);
    let (report, lines) = check(&image);
    assert!(lines.is_empty(), "{lines:?}");
    let report = report.expect("it is checked");
    assert_eq!((report.compressed_clusters, report.allocated_clusters), (2, 5));
}

#[test]
fn a_refcount_block_that_cannot_be() {
    let mut image = sound();
    image.be64(REFCOUNT_TABLE as usize, BLOCK + 512);
    let (counts, lines) = counted(&image);
    assert_eq!(counts, (1, 0, 8));
    assert_eq!(lines.len(), 10);
    assert_eq!(lines[2], "Can't get refcount for cluster 0: Input/output error");
}

#[test]
fn more_snapshots_than_there_can_be() {
    let mut image = sound();
    image.be32(field::SNAPSHOT_COUNT, 65537);
    let (report, lines) = check(&image);
    assert_eq!(report.expect_err("it cannot be checked").message, "File too large");
    assert_eq!(lines[0], "program: ERROR snapshot table too large");
}
