//! Resize, cut at every step.

use instar_cut::{Folder, Image, Scenario, Watch};

const TOP: Image = Image { name: "top", format: "qcow2", watch: Watch::Whole };

fn image(options: &str, backing: bool) -> Folder {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "base", "4M"]);
    folder.stock("qemu-io", &["-c", "write -P 1 0 4M", "base"]);
    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", options];
    if backing {
        arguments.extend(["-b", "base", "-F", "qcow2"]);
    }
    arguments.extend(["top", "1000k"]);
    folder.stock("qemu-img", &arguments);
    folder.stock("qemu-io", &["-c", "write -P 7 64k 130k", "-c", "write -P 8 900k 30k", "top"]);
    folder
}

fn resize(folder: Folder, size: u64, preallocation: &str) -> usize {
    let base = Image { name: "base", format: "qcow2", watch: Watch::Read };
    let mut scenario = Scenario::new("resize", folder, &[TOP, base]);
    scenario.params.set("size", size).set("preallocation", preallocation).set("shrink", true);
    scenario.run()
}

#[test]
fn growing() {
    for options in ["cluster_size=64k", "cluster_size=512,refcount_bits=1", "compat=0.10", "extended_l2=on"] {
        assert!(resize(image(options, false), 5 << 20, "off") > 1, "{options}");
    }
}

#[test]
fn growing_past_the_end_of_a_shorter_image_on_a_longer_one() {
    for options in ["cluster_size=64k", "cluster_size=4k", "extended_l2=on"] {
        assert!(resize(image(options, true), 5 << 20, "off") > 5, "{options}");
    }
}

#[test]
fn growing_with_preallocation() {
    for (options, mode) in [("cluster_size=64k", "metadata"), ("cluster_size=4k", "falloc"), ("compat=0.10", "full")] {
        assert!(resize(image(options, true), 3 << 20, mode) > 5, "{options} {mode}");
    }
}

#[test]
fn shrinking() {
    for options in ["cluster_size=64k", "cluster_size=512", "extended_l2=on"] {
        assert!(resize(image(options, true), 150 << 10, "off") > 5, "{options}");
    }
}

#[test]
fn shrinking_with_a_snapshot() {
    let folder = image("cluster_size=4k", false);
    folder.stock("qemu-img", &["snapshot", "-c", "before", "top"]);
    assert!(resize(folder, 150 << 10, "off") > 5);
}

#[test]
fn with_bitmaps_that_grow_and_shrink() {
    for size in [5 << 20, 150 << 10] {
        let folder = image("cluster_size=512", false);
        folder.stock("qemu-img", &["bitmap", "--add", "-g", "512", "top", "fine"]);
        folder.stock("qemu-io", &["-c", "write -P 3 0 200k", "top"]);
        assert!(resize(folder, size, "off") > 5);
    }
}
