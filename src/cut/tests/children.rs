//! Children of a VHD or VHDX in place, cut at every step. The stock tool does not know them: our own reading judges.

use instar_cut::{Folder, Image, Scenario, Watch};
use instar_image::Value;
use instar_sim::Machine;

/// A format, and options of its images.
const ALL: [(&str, &str); 2] = [("vpc", "force_size=on"), ("vhdx", "block_size=1M")];
const SIZE: &str = "5M";

fn stock(folder: &Folder, format: &str, name: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", format];
    arguments.extend(commands.iter().flat_map(|c| ["-c", c]));
    arguments.push(name);
    folder.stock("qemu-io", &arguments);
}

fn described(name: &str, format: &str, device: u32) -> Value {
    let mut map = Value::map();
    map.set("device", u64::from(device)).set("filename", name).set("format", format);
    map
}

/// A child of `below` that holds what `commands` write: made from an overlay that the stock tool wrote.
fn child(folder: &Folder, format: &str, below: &str, name: &str, commands: &[&str]) {
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-b", below, "-F", format, "overlay"]);
    stock(folder, "qcow2", "overlay", commands);
    let machine = Machine::new().with_workers(1);
    for file in [below, "overlay"] {
        let device = machine.add(std::fs::read(folder.path(file)).expect("it was made"));
        machine.name(file, device);
    }
    let device = machine.add_writable(Vec::new());
    let mut target = described(name, format, device.0);
    target.set("zeroed", true);
    let mut params = Value::map();
    params.set("op", "convert").set("version-major", 10u64).set("version-minor", 0u64);
    params.set("target", target).set("sources", vec![described("overlay", "qcow2", 1)]).set("sparse", 4096u64);
    params.set("backing", below).set("backing-format", format).set("backing-image", described(below, format, 0));
    if format == "vhdx" {
        params.set("options", vec![Value::from("block_size=1M")]);
    }
    assert_eq!(instar_ops::run(&machine, &params), 0, "{:?}", machine.emitted());
    std::fs::write(folder.path(name), machine.disk(device).to_bytes()).expect("there is room");
}

/// Two images that differ here and there, and a child of the first.
fn images((format, options): (&str, &str)) -> Folder {
    let folder = Folder::new();
    for (name, pattern) in [("old", 1), ("new", 2)] {
        folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, name, SIZE]);
        let first = format!("write -P {pattern} 0 300k");
        let last = format!("write -P {pattern} 4900k 4k");
        stock(&folder, format, name, &[&first, "write -P 9 2500k 100k", &last]);
    }
    stock(&folder, format, "old", &["write -P 3 4100k 10k"]);
    // A whole block, parts of one, zeroes over what the parent has.
    let writes = ["write -P 7 1M 1M", "write -P 8 64k 70k", "write -z 2510k 20k", "write -P 6 5100k 4k"];
    child(&folder, format, "old", "top", &writes);
    folder
}

fn scenario(op: &str, folder: Folder, images: &[Image]) -> Scenario {
    let mut scenario = Scenario::new(op, folder, images);
    scenario.own = true;
    scenario.subsets = 1;
    scenario
}

#[test]
fn into_an_existing_child() {
    for of in ALL {
        let folder = images(of);
        folder.stock("qemu-img", &["create", "-q", "-f", "raw", "source", SIZE]);
        let writes = ["write -P 1 0 150k", "write -P 2 390k 5k", "write -P 4 3M 1500k", "write -P 5 5112k 8k"];
        stock(&folder, "raw", "source", &writes);
        let images = [
            Image { name: "top", format: of.0, watch: Watch::Sectors },
            Image { name: "source", format: "raw", watch: Watch::Read },
            Image { name: "old", format: of.0, watch: Watch::Read },
        ];
        let mut scenario = scenario("convert", folder, &images);
        scenario.arrange = |params, images| {
            let mut target = images[0].clone();
            target.set("existing", true);
            params.set("target", target).set("sources", vec![images[1].clone()]).set("sparse", 4096u64);
        };
        assert!(scenario.run() > 3, "{of:?}");
    }
}

#[test]
fn commit_into_a_child() {
    for of in ALL {
        let folder = images(of);
        std::fs::rename(folder.path("top"), folder.path("mid")).expect("it was made");
        folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "old", "-F", of.0, "top"]);
        stock(&folder, "qcow2", "top", &["write -P 7 64k 128k", "write -P 5 3M 64k", "write -P 4 5056k 64k"]);
        folder.stock("qemu-img", &["rebase", "-u", "-b", "mid", "-F", of.0, "top"]);
        let images = [
            Image { name: "top", format: "qcow2", watch: Watch::Whole },
            Image { name: "mid", format: of.0, watch: Watch::Sound },
            Image { name: "old", format: of.0, watch: Watch::Read },
        ];
        assert!(scenario("commit", folder, &images).run() > 3, "{of:?}");
    }
}

#[test]
fn commit_of_a_child() {
    for of in ALL {
        let images_of = [
            Image { name: "top", format: of.0, watch: Watch::Whole },
            Image { name: "old", format: of.0, watch: Watch::Sound },
        ];
        assert!(scenario("commit", images(of), &images_of).run() > 3, "{of:?}");
    }
}

fn rebase(of: (&'static str, &str), folder: Folder, backing: &str, only_name: bool) -> usize {
    let images = [
        Image { name: "top", format: of.0, watch: Watch::Whole },
        Image { name: "old", format: of.0, watch: Watch::Read },
        Image { name: "new", format: of.0, watch: Watch::Read },
    ];
    let mut scenario = scenario("rebase", folder, &images);
    scenario.params.set("backing", backing).set("backing-format", of.0).set("unsafe", only_name);
    if !backing.is_empty() && !only_name {
        scenario.arrange = |params, images| {
            params.set("image", images[0].clone()).set("new", images[2].clone());
        };
    }
    scenario.run()
}

#[test]
fn rebase_of_a_child() {
    for of in ALL {
        assert!(rebase(of, images(of), "new", false) > 5, "{of:?}");
        assert!(rebase(of, images(of), "", false) > 5, "{of:?}");
        assert!(rebase(of, images(of), "new", true) > 3, "{of:?}");
    }
}

#[test]
fn resize_of_a_child() {
    const MIB: u64 = 1 << 20;
    for to in [9 * MIB, 3 * MIB + 512] {
        let images_of = [
            Image { name: "top", format: "vpc", watch: Watch::Whole },
            Image { name: "old", format: "vpc", watch: Watch::Read },
        ];
        let mut scenario = scenario("resize", images(ALL[0]), &images_of);
        scenario.params.set("size", to).set("preallocation", "off").set("shrink", true);
        assert!(scenario.run() > 3, "{to}");
    }
}
