//! The formats with one table of blocks (vdi, parallels) and with two levels of tables (qed, qcow, vmdk), cut at every step.

use instar_cut::{Folder, Image, Scenario, Watch};
use instar_image::Value;

const SOURCE: Image = Image { name: "source", format: "raw", watch: Watch::Read };

/// A format, and options of its images.
const ALL: [(&str, &str); 10] = [
    ("vdi", "static=off"),
    ("vdi", "static=on"),
    ("parallels", "cluster_size=1M"),
    ("parallels", "cluster_size=64k"),
    ("qed", "cluster_size=64k"),
    ("qed", "cluster_size=4k,table_size=2"),
    ("qcow", "encryption=off"),
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "zeroed_grain=on"),
    ("qcow", "backing_file=base,backing_fmt=raw"),
];
/// Of them, how many have no backing file.
const NEW: usize = 9;

fn write(folder: &Folder, format: &str, name: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", format];
    arguments.extend(commands.iter().flat_map(|c| ["-c", c]));
    arguments.push(name);
    folder.stock("qemu-io", &arguments);
}

fn base(folder: &Folder) {
    folder.stock("qemu-img", &["create", "-q", "-f", "raw", "base", "5M"]);
    write(folder, "raw", "base", &["write -P 6 0 5M"]);
}

fn create(folder: &Folder, format: &str, options: &str, name: &str) {
    folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, name, "5M"]);
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

fn source(folder: &Folder) {
    folder.stock("qemu-img", &["create", "-q", "-f", "raw", "source", "5M"]);
    let writes = ["write -P 1 0 150k", "write -P 2 390k 5k", "write -P 3 2000k 1200k", "write -P 4 5115k 5k"];
    write(folder, "raw", "source", &writes);
}

#[test]
fn into_an_existing_image() {
    for (format, options) in ALL {
        let folder = Folder::new();
        base(&folder);
        source(&folder);
        create(&folder, format, options, "target");
        write(&folder, format, "target", &["write -P 9 100k 300k", "write -P 8 3000k 100k"]);
        let target = Image { name: "target", format, watch: Watch::Sectors };
        let base = Image { name: "base", format: "raw", watch: Watch::Read };
        let mut scenario = Scenario::new("convert", folder, &[target, SOURCE, base]);
        scenario.arrange = existing;
        assert!(scenario.run() > 3, "{format} {options}");
    }
}

#[test]
fn a_new_image_is_whole_or_none() {
    for (format, options) in &ALL[..NEW] {
        let folder = Folder::new();
        source(&folder);
        std::fs::write(folder.path("target"), b"").expect("there is room");
        let target = Image { name: "target", format, watch: Watch::New };
        let mut scenario = Scenario::new("convert", folder, &[target, SOURCE]);
        scenario.arrange = new;
        scenario.params.set("options", vec![Value::from(*options)]);
        assert!(scenario.run() > 3, "{format} {options}");
    }
}

#[test]
fn commit_into() {
    for (format, options) in ALL {
        let folder = Folder::new();
        base(&folder);
        create(&folder, format, options, "lower");
        write(&folder, format, "lower", &["write -P 1 0 400k", "write -P 2 2600k 200k"]);
        folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "lower", "-F", format, "top"]);
        write(&folder, "qcow2", "top", &["write -P 7 64k 130k", "write -z 300k 70k", "write -P 8 4090k 40k"]);
        let images = [
            Image { name: "top", format: "qcow2", watch: Watch::Whole },
            Image { name: "lower", format, watch: Watch::Sound },
            Image { name: "base", format: "raw", watch: Watch::Read },
        ];
        assert!(Scenario::new("commit", folder, &images).run() > 5, "{format} {options}");
    }
}

#[test]
fn commit_of() {
    for (format, options) in [("qed", "cluster_size=4k,table_size=2"), ("qcow", "encryption=off")] {
        let folder = Folder::new();
        base(&folder);
        let options = format!("{options},backing_file=base,backing_fmt=raw");
        create(&folder, format, &options, "top");
        write(&folder, format, "top", &["write -P 7 64k 130k", "write -P 8 4090k 40k"]);
        let images = [
            Image { name: "top", format, watch: Watch::Whole },
            Image { name: "base", format: "raw", watch: Watch::Sound },
        ];
        assert!(Scenario::new("commit", folder, &images).run() > 3, "{format}");
    }
}

/// Rebases an image of the format `format` from one of the format `below` onto another one.
fn rebase(folder: Folder, format: &'static str, below: &'static str, backing: &str) -> usize {
    let images = [
        Image { name: "top", format, watch: Watch::Whole },
        Image { name: "base", format: below, watch: Watch::Read },
        Image { name: "source", format: below, watch: Watch::Read },
    ];
    let mut scenario = Scenario::new("rebase", folder, &images);
    scenario.params.set("backing", backing).set("backing-format", below);
    if !backing.is_empty() {
        scenario.arrange = |params, images| {
            params.set("image", images[0].clone()).set("new", images[2].clone());
        };
    }
    scenario.run()
}

#[test]
fn rebase_of_qed() {
    for backing in ["source", ""] {
        let folder = Folder::new();
        base(&folder);
        source(&folder);
        create(&folder, "qed", "cluster_size=16k,backing_file=base,backing_fmt=raw", "top");
        write(&folder, "qed", "top", &["write -P 7 64k 130k", "write -z 1M 64k"]);
        assert!(rebase(folder, "qed", "raw", backing) > 5, "{backing}");
    }
    let folder = Folder::new();
    base(&folder);
    source(&folder);
    create(&folder, "qed", "cluster_size=16k", "top");
    write(&folder, "qed", "top", &["write -P 7 64k 130k"]);
    assert!(rebase(folder, "qed", "raw", "source") > 5);
}

#[test]
fn rebase_of_vmdk() {
    let made = |options: &str, backing: &str| {
        let folder = Folder::new();
        for (name, commands) in [("base", ["write -P 6 0 3M"]), ("source", ["write -P 2 2M 2M"])] {
            create(&folder, "vmdk", "subformat=monolithicSparse", name);
            write(&folder, "vmdk", name, &commands);
        }
        create(&folder, "vmdk", options, "top");
        write(&folder, "vmdk", "top", &["write -P 7 64k 130k"]);
        assert!(rebase(folder, "vmdk", "vmdk", backing) > 1, "{options} {backing}");
    };
    for options in ["backing_file=base,backing_fmt=vmdk", "backing_file=base,backing_fmt=vmdk,zeroed_grain=on"] {
        made(options, "source");
        made(options, "");
    }
    made("subformat=monolithicSparse", "source");
}

#[test]
fn resize_of_vmdk() {
    const MIB: u64 = 1 << 20;
    for options in ["subformat=monolithicSparse", "zeroed_grain=on"] {
        let writes = ["write -P 7 3000k 1500k", "write -P 8 100k 30k", "write -P 9 5900k 100k"];
        // The last one needs more tables.
        for to in [8 * MIB, 3 * MIB + 512, 5 * MIB, 1 << 30] {
            assert!(resized("vmdk", options, "6000k", &writes, to) >= 1, "{options} {to}");
        }
    }
}

#[test]
fn resize_of_qed() {
    let folder = Folder::new();
    create(&folder, "qed", "cluster_size=16k", "top");
    write(&folder, "qed", "top", &["write -P 7 5000k 120k"]);
    let top = Image { name: "top", format: "qed", watch: Watch::Whole };
    let mut scenario = Scenario::new("resize", folder, &[top]);
    scenario.params.set("size", 9u64 << 20).set("preallocation", "off");
    assert!(scenario.run() >= 1);
}

fn resized(format: &'static str, options: &str, from: &str, writes: &[&str], to: u64) -> usize {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, "top", from]);
    write(&folder, format, "top", writes);
    let top = Image { name: "top", format, watch: Watch::Whole };
    let mut scenario = Scenario::new("resize", folder, &[top]);
    scenario.params.set("size", to).set("preallocation", "off").set("shrink", true);
    scenario.run()
}

#[test]
fn growing_and_shrinking() {
    const MIB: u64 = 1 << 20;
    let writes = ["write -P 7 3000k 1500k", "write -P 8 100k 30k", "write -P 9 5500k 100k"];
    for to in [8 * MIB, 7 * MIB + 512, 3 * MIB + 512, 5 * MIB, 1 << 30] {
        assert!(resized("vdi", "static=off", "6M", &writes, to) >= 1, "vdi {to}");
        assert!(resized("parallels", "cluster_size=64k", "6M", &writes, to) >= 1, "parallels {to}");
    }
    assert!(resized("parallels", "cluster_size=512", "100k", &["write -P 7 0 20k"], 2 * MIB) > 5);
}
