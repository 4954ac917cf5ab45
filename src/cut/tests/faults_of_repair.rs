//! `check -r` of images that are damaged at random, on a machine that fails: what was readable before stays readable, and what
//! failed can be repaired when nothing fails any more. As in `faults.rs`, `INSTAR_FAULTS` and `INSTAR_FAULTS_SEED` say more.

use instar_cut::{Counts, Damage, Numbers, Watch};

/// Damaged images of each kind, and faults of each kind in them.
const IMAGES: u64 = 4;
const FAULTS: u64 = 2;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Most of what is done at random can be repaired; the rest is left out, and counted.
fn repaired(format: &'static str, options: &str, judged_by_stock: bool) {
    let (images, faults) = (number("INSTAR_FAULTS_IMAGES", IMAGES), number("INSTAR_FAULTS", FAULTS));
    let (mut counts, mut left_out, mut done) = (Counts::default(), 0, 0);
    let mut seed = number("INSTAR_FAULTS_SEED", 0) << 16;
    while done < images {
        assert!(left_out <= 20 * images, "{format}: next to nothing can be repaired");
        seed += 1;
        let mut numbers = Numbers::new(seed);
        let snapshot = format == "qcow2" && numbers.below(2) == 0;
        let mut image = Damage::new(format, options, snapshot);
        image.at_random(&mut numbers);
        let mut scenario = image.repair("all", Watch::Sectors);
        scenario.snapshots = format == "qcow2";
        scenario.own = !judged_by_stock;
        if !scenario.works() {
            left_out += 1;
            continue;
        }
        counts.add(scenario.faults(faults, seed));
        done += 1;
    }
    println!("check -r all, {format} {options}: {done} images (left out: {left_out}), {counts}");
}

#[test]
fn qcow2() {
    for options in ["cluster_size=64k", "cluster_size=4k", "cluster_size=512,refcount_bits=64", "compat=0.10"] {
        repaired("qcow2", options, true);
    }
}

#[test]
fn qed() {
    repaired("qed", "cluster_size=4k", true);
    repaired("qed", "cluster_size=64k", true);
}

#[test]
fn parallels() {
    repaired("parallels", "cluster_size=64k", true);
}

#[test]
fn vhdx() {
    repaired("vhdx", "block_size=1M", true);
    repaired("vhdx", "log_size=2M", true);
}

#[test]
fn vdi() {
    repaired("vdi", "static=off", false);
}

#[test]
fn vpc() {
    repaired("vpc", "force_size=on", false);
}
