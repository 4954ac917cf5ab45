//! Rebase, cut at every step.

use instar_cut::{Folder, Image, Scenario, Watch};
use instar_image::Value;

const TOP: Image = Image { name: "top", format: "qcow2", watch: Watch::Whole };

fn onto(params: &mut Value, images: &[Value]) {
    params.set("image", images[0].clone()).set("new", images[2].clone());
}

fn read(name: &'static str) -> Image {
    Image { name, format: "qcow2", watch: Watch::Read }
}

/// Old and new backing files that differ here and there, and an overlay with `options`.
fn images(options: &str) -> Folder {
    let folder = Folder::new();
    for (name, pattern) in [("old", "1"), ("new", "2")] {
        folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", name, "1M"]);
        let writes = [
            format!("write -P {pattern} 0 300k"),
            "write -P 9 500k 100k".into(),
            format!("write -P {pattern} 900k 4k"),
        ];
        let mut arguments: Vec<&str> = writes.iter().flat_map(|w| ["-c", w.as_str()]).collect();
        arguments.push(name);
        folder.stock("qemu-io", &arguments);
    }
    folder.stock("qemu-io", &["-c", "write -P 3 700k 10k", "old"]);
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "old", "-F", "qcow2", "-o", options, "top"]);
    folder.stock("qemu-io", &["-c", "write -P 7 64k 70k", "-c", "write -P 8 1020k 4k", "top"]);
    folder
}

fn rebase(folder: Folder, backing: &str, compress: bool) -> usize {
    let mut scenario = Scenario::new("rebase", folder, &[TOP, read("old"), read("new")]);
    scenario.params.set("backing", backing).set("backing-format", "qcow2").set("compress", compress);
    if !backing.is_empty() {
        scenario.arrange = onto;
    }
    scenario.run()
}

#[test]
fn onto_another_backing_file() {
    for options in ["cluster_size=64k", "cluster_size=4k,refcount_bits=1", "compat=0.10,cluster_size=64k"] {
        assert!(rebase(images(options), "new", false) > 10, "{options}");
    }
}

#[test]
fn with_subclusters() {
    assert!(rebase(images("extended_l2=on,cluster_size=64k"), "new", false) > 10);
}

#[test]
fn compressing() {
    assert!(rebase(images("cluster_size=64k"), "new", true) > 10);
}

#[test]
fn onto_nothing() {
    assert!(rebase(images("cluster_size=64k"), "", false) > 10);
}

#[test]
fn with_a_snapshot_that_shares_tables() {
    let folder = images("cluster_size=16k");
    folder.stock("qemu-img", &["snapshot", "-c", "before", "top"]);
    assert!(rebase(folder, "new", false) > 10);
}

#[test]
fn with_a_refcount_table_that_grows() {
    // One cluster of a table of 512 bytes counts 64 blocks of 64 clusters of 512 bytes: 2 MiB.
    let folder = Folder::new();
    for (name, pattern) in [("old", "1"), ("new", "2")] {
        folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", name, "3M"]);
        folder.stock("qemu-io", &["-c", &format!("write -P {pattern} 0 3M"), name]);
    }
    let options = "cluster_size=512,refcount_bits=64";
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "old", "-F", "qcow2", "-o", options, "top"]);
    let mut scenario = Scenario::new("rebase", folder, &[TOP, read("old"), read("new")]);
    scenario.params.set("backing", "new").set("backing-format", "qcow2");
    scenario.arrange = onto;
    scenario.subsets = 0;
    assert!(scenario.run() > 10);
}
