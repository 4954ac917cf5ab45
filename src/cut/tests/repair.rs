//! Damaged images are repaired, cut at every step: at each of them the image shows what it showed, no more is wrong with it than
//! was, and the stock tool can still repair it; in the end nothing is wrong.

use instar_cut::{Damage, Watch};

/// How many states there are on the way to a sound one.
fn repaired(image: Damage, what: &str, worst: u64) -> usize {
    let mut scenario = image.repair(what, Watch::Whole);
    scenario.worst = Some(worst);
    scenario.run()
}

const COUNTED: [&str; 4] =
    ["cluster_size=64k", "cluster_size=4k", "cluster_size=512,refcount_bits=64", "compat=0.10,cluster_size=4k"];

fn qcow2(snapshot: bool, worst: u64, damage: impl Fn(&mut Damage)) {
    for options in COUNTED {
        let mut image = Damage::new("qcow2", options, snapshot);
        damage(&mut image);
        assert!(repaired(image, "all", worst) > 0, "{options}");
    }
}

#[test]
fn leaked_clusters() {
    for options in ["cluster_size=64k", "refcount_bits=8,cluster_size=4k"] {
        let mut image = Damage::new("qcow2", options, true);
        let [.., block] = image.tables();
        let wide = if options.contains("bits") { 1 } else { 2 };
        for cluster in [3, 5, 7] {
            image.put(block + cluster * wide, if wide == 1 { &[9] } else { &[0, 9] });
        }
        assert!(repaired(image, "leaks", 9) > 0, "{options}");
    }
}

#[test]
fn a_shared_cluster_and_flags() {
    // Two entries that are the same, and one that lacks its flag.
    qcow2(false, 9, |image| {
        let [_, l2, ..] = image.tables();
        let first = (0..64).map(|n| l2 + n * 8).find(|at| image.number(*at) != 0).expect("there is data");
        let (one, next) = (image.number(first), image.number(first + 16));
        image.put(first + 8, &one.to_be_bytes());
        image.put(first + 16, &(next & !(1 << 63)).to_be_bytes());
    });
}

#[test]
fn counts_that_are_gone() {
    qcow2(true, u64::MAX, |image| {
        let [.., block] = image.tables();
        image.put(block, &[0; 200]);
    });
}

#[test]
fn a_block_that_is_gone() {
    qcow2(true, u64::MAX, |image| {
        let [_, _, table, _] = image.tables();
        image.put(table, &[0; 8]);
    });
}

#[test]
fn a_block_where_a_table_is() {
    qcow2(false, u64::MAX, |image| {
        let [l1, _, table, _] = image.tables();
        image.put(table, &l1.to_be_bytes());
    });
}

#[test]
fn a_block_of_nowhere() {
    qcow2(false, u64::MAX, |image| {
        let [_, _, table, block] = image.tables();
        // The stock tool bears that only of the last one, which nothing needs.
        let len = (image.number(56) >> 32) << (image.number(16) & 0xffff_ffff);
        image.put(table + len - 8, &(block + 512 + 1).to_be_bytes());
    });
}

#[test]
fn marks() {
    for mark in 1..4u8 {
        let mut image = Damage::new("qcow2", "cluster_size=4k", true);
        let [.., block] = image.tables();
        image.put(79, &[mark]);
        image.put(block + 20, &[0, 7]);
        assert!(repaired(image, "all", 9) > 0, "{mark}");
    }
}

#[test]
fn an_entry_of_the_snapshot_table() {
    let mut image = Damage::new("qcow2", "cluster_size=4k", true);
    let table = image.number(64);
    // It has no extra data; names and identifier are where those were.
    image.put(table + 36, &[0; 4]);
    image.put(table + 12, &[0, 1, 0, 6]);
    image.put(table + 40, b"1before");
    assert!(repaired(image, "all", 9) > 0);
}

#[test]
fn qed() {
    let mut image = Damage::new("qed", "cluster_size=4k", false);
    let number = |image: &Damage, at| image.number(at).swap_bytes();
    let l1 = number(&image, 40);
    let l2 = number(&image, l1);
    // It is behind the disk's end: else nothing could be read.
    image.put(l2 + 8000, &(1u64 << 40).to_le_bytes());
    image.put(16, &[2]);
    assert!(repaired(image, "all", 1) > 0);
}

#[test]
fn parallels() {
    let mut image = Damage::new("parallels", "cluster_size=64k", false);
    let first = (64..).step_by(4).find(|at| image.bytes[*at] != 0).expect("there is data");
    let entry = image.bytes[first..first + 4].to_vec();
    image.put(first as u64 + 4, &entry);
    image.put(44, &0x746f_6e59_u32.to_le_bytes());
    image.put(48, &77u32.to_le_bytes());
    image.bytes.extend([7; 100_000]);
    assert!(repaired(image, "all", 9) > 2);
}
