//! `convert`, cut at every step: into an existing image (`-n`), which it overwrites in place, and into a new file.

use instar_cut::{Folder, Image, Scenario, Watch};
use instar_image::Value;

const SOURCE: Image = Image { name: "source", format: "raw", watch: Watch::Read };

fn target(format: &'static str, watch: Watch) -> Image {
    Image { name: "target", format, watch }
}

fn existing(params: &mut Value, images: &[Value]) {
    let mut target = images[0].clone();
    target.set("existing", true);
    params.set("target", target).set("sources", vec![images[1].clone()]).set("sparse", 4096u64);
}

fn new(params: &mut Value, images: &[Value]) {
    let mut target = images[0].clone();
    target.set("zeroed", true);
    params.set("target", target).set("sources", vec![images[1].clone()]).set("sparse", 4096u64);
}

/// A source with data and holes, and a target with `options` that holds something else.
fn folder(format: &str, options: &str) -> Folder {
    let folder = source();
    folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, "target", "1100k"]);
    folder.stock("qemu-io", &["-f", format, "-c", "write -P 9 100k 300k", "-c", "write -z 500k 100k", "target"]);
    folder
}

fn source() -> Folder {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "raw", "source", "1000k"]);
    folder.stock(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 1 0 150k", "-c", "write -P 2 390k 5k", "-c", "write -P 3 800k 200k", "source"],
    );
    folder
}

fn convert(folder: Folder, format: &'static str, others: &[Image]) -> usize {
    let mut images = vec![target(format, Watch::Sectors), SOURCE];
    images.extend(others);
    let mut scenario = Scenario::new("convert", folder, &images);
    scenario.arrange = existing;
    scenario.run()
}

#[test]
fn into_a_qcow2_with_data() {
    for options in ["cluster_size=64k", "cluster_size=4k,refcount_bits=1", "compat=0.10", "extended_l2=on"] {
        assert!(convert(folder("qcow2", options), "qcow2", &[]) > 5, "{options}");
    }
}

#[test]
fn into_raw() {
    assert!(convert(folder("raw", "preallocation=off"), "raw", &[]) > 3);
}

#[test]
fn into_an_image_with_a_snapshot() {
    let folder = folder("qcow2", "cluster_size=16k");
    folder.stock("qemu-img", &["snapshot", "-c", "before", "target"]);
    assert!(convert(folder, "qcow2", &[]) > 10);
}

#[test]
fn into_compressed_clusters() {
    let folder = folder("qcow2", "cluster_size=16k");
    folder.stock("qemu-img", &["convert", "-c", "-O", "qcow2", "target", "compressed"]);
    std::fs::rename(folder.path("compressed"), folder.path("target")).expect("it was made");
    assert!(convert(folder, "qcow2", &[]) > 10);
}

#[test]
fn into_an_overlay() {
    let folder = source();
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "base", "1100k"]);
    folder.stock("qemu-io", &["-c", "write -P 6 0 1100k", "base"]);
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "target"]);
    let base = Image { name: "base", format: "qcow2", watch: Watch::Read };
    assert!(convert(folder, "qcow2", &[base]) > 5);
}

#[test]
fn a_new_image_is_whole_or_none() {
    for (format, options) in [
        ("qcow2", &[][..]),
        ("qcow2", &["cluster_size=4k"]),
        ("qcow2", &["compat=0.10"]),
        ("qcow2", &["preallocation=metadata"]),
        ("qcow2", &["extended_l2=on"]),
        ("vpc", &[]),
    ] {
        let folder = source();
        std::fs::write(folder.path("target"), b"").expect("there is room");
        let mut scenario = Scenario::new("convert", folder, &[target(format, Watch::New), SOURCE]);
        scenario.arrange = new;
        let options: Vec<Value> = options.iter().map(|text| Value::from(*text)).collect();
        scenario.params.set("options", options);
        assert!(scenario.run() > 3, "{format}");
    }
}
