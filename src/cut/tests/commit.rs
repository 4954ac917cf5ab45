//! Commit, cut at every step: two files change, and the overlay shows the same all the time.

use instar_cut::{Folder, Image, Scenario, Watch};

const TOP: Image = Image { name: "top", format: "qcow2", watch: Watch::Whole };

fn below(name: &'static str, format: &'static str) -> Image {
    Image { name, format, watch: Watch::Sound }
}

fn commit(folder: Folder, images: &[Image], base: Option<&str>) -> usize {
    let mut scenario = Scenario::new("commit", folder, images);
    if let Some(base) = base {
        scenario.params.set("base", base);
    }
    scenario.run()
}

/// A base with `options`, and an overlay with data, zeroes and compressed clusters.
fn images(format: &str, options: &str, overlay: &str) -> Folder {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, "base", "1M"]);
    folder.stock("qemu-io", &["-f", format, "-c", "write -P 1 0 400k", "-c", "write -P 2 600k 200k", "base"]);
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base", "-F", format, "-o", overlay, "top"]);
    folder.stock(
        "qemu-io",
        &["-c", "write -P 7 64k 130k", "-c", "write -z 300k 70k", "-c", "write -P 8 1020k 4k", "top"],
    );
    folder
}

#[test]
fn into_the_base() {
    for (options, overlay) in [
        ("cluster_size=64k", "cluster_size=64k"),
        ("cluster_size=4k", "cluster_size=64k"),
        ("cluster_size=64k", "cluster_size=4k"),
        ("compat=0.10", "extended_l2=on"),
    ] {
        let folder = images("qcow2", options, overlay);
        assert!(commit(folder, &[TOP, below("base", "qcow2")], None) > 10, "{options} {overlay}");
    }
}

#[test]
fn into_raw() {
    assert!(commit(images("raw", "preallocation=off", "cluster_size=64k"), &[TOP, below("base", "raw")], None) > 5);
}

#[test]
fn into_a_base_with_a_snapshot() {
    let folder = images("qcow2", "cluster_size=16k", "cluster_size=64k");
    folder.stock("qemu-img", &["snapshot", "-c", "before", "base"]);
    assert!(commit(folder, &[TOP, below("base", "qcow2")], None) > 10);
}

#[test]
fn of_an_overlay_with_a_snapshot() {
    let folder = images("qcow2", "cluster_size=64k", "cluster_size=16k");
    folder.stock("qemu-img", &["snapshot", "-c", "before", "top"]);
    folder.stock("qemu-io", &["-c", "write -P 3 200k 30k", "top"]);
    assert!(commit(folder, &[TOP, below("base", "qcow2")], None) > 10);
}

#[test]
fn through_an_image_between() {
    let folder = images("qcow2", "cluster_size=64k", "cluster_size=64k");
    std::fs::rename(folder.path("top"), folder.path("mid")).expect("it was made");
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "top"]);
    folder.stock("qemu-io", &["-c", "write -P 5 500k 64k", "top"]);
    let mid = Image { name: "mid", format: "qcow2", watch: Watch::Read };
    assert!(commit(folder, &[TOP, mid, below("base", "qcow2")], Some("base")) > 5);
}
