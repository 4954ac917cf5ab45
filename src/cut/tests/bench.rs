//! Writing by `bench`, cut at every step: in place, a sector at a time.

use instar_cut::{Folder, Image, Scenario, Watch};

const BASE: Image = Image { name: "base", format: "qcow2", watch: Watch::Read };

/// An image with data in some of the places that are written to.
fn image(format: &str, options: &[&str]) -> Folder {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "base", "1M"]);
    folder.stock("qemu-io", &["-c", "write -P 1 0 1M", "base"]);
    folder.stock("qemu-img", &[&["create", "-q", "-f", format], options, &["top", "1M"]].concat());
    folder.stock("qemu-io", &["-f", format, "-c", "write -P 9 100k 300k", "-c", "write -z 500k 100k", "top"]);
    folder
}

fn bench(folder: Folder, format: &'static str, flush_interval: u64) -> usize {
    let top = Image { name: "top", format, watch: Watch::Sectors };
    let mut scenario = Scenario::new("bench", folder, &[top, BASE]);
    scenario.params.set("count", 10u64).set("depth", 4u64).set("offset", 3072u64).set("size", 5120u64);
    scenario.params.set("step", 370u64 << 10).set("write", true).set("pattern", 77u64);
    scenario.params.set("flush-interval", flush_interval);
    scenario.run()
}

#[test]
fn a_qcow2() {
    for options in ["cluster_size=64k", "cluster_size=4k,refcount_bits=1", "compat=0.10", "extended_l2=on"] {
        assert!(bench(image("qcow2", &["-o", options]), "qcow2", 0) > 5, "{options}");
    }
}

#[test]
fn flushed_in_between() {
    assert!(bench(image("qcow2", &["-b", "base", "-F", "qcow2"]), "qcow2", 5) > 5);
}

#[test]
fn with_a_snapshot_and_compressed_clusters() {
    let folder = image("qcow2", &["-o", "cluster_size=16k"]);
    folder.stock("qemu-io", &["-c", "write -c -P 5 0 16k", "-c", "write -c -P 6 704k 16k", "top"]);
    folder.stock("qemu-img", &["snapshot", "-c", "before", "top"]);
    assert!(bench(folder, "qcow2", 7) > 5);
}

#[test]
fn other_formats() {
    for format in ["raw", "vmdk", "vdi", "qed", "qcow", "vhdx"] {
        assert!(bench(image(format, &[]), format, 8) > 3, "{format}");
    }
}
