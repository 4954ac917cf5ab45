//! VHD and VHDX in place, cut at every step.

use instar_cut::{Folder, Image, Scenario, Watch};
use instar_image::Value;
use instar_sim::Machine;

const SOURCE: Image = Image { name: "source", format: "raw", watch: Watch::Read };

fn write(folder: &Folder, format: &str, name: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", format];
    arguments.extend(commands.iter().flat_map(|c| ["-c", c]));
    arguments.push(name);
    folder.stock("qemu-io", &arguments);
}

fn existing(params: &mut Value, images: &[Value]) {
    let mut target = images[0].clone();
    target.set("existing", true);
    params.set("target", target).set("sources", vec![images[1].clone()]).set("sparse", 4096u64);
}

fn into_existing(format: &'static str, options: &str) {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "raw", "source", "5M"]);
    let writes = ["write -P 1 0 150k", "write -P 2 390k 5k", "write -P 4 5115k 5k"];
    write(&folder, "raw", "source", &writes);
    folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, "target", "5M"]);
    write(&folder, format, "target", &["write -P 9 100k 300k"]);
    let target = Image { name: "target", format, watch: Watch::Sectors };
    let mut scenario = Scenario::new("convert", folder, &[target, SOURCE]);
    scenario.arrange = existing;
    scenario.subsets = 1;
    assert!(scenario.run() > 3, "{format} {options}");
}

#[test]
fn into_an_existing_vhd() {
    into_existing("vpc", "force_size=on");
}

#[test]
fn into_an_existing_fixed_vhd() {
    into_existing("vpc", "subformat=fixed,force_size=on");
}

#[test]
fn into_an_existing_vhdx() {
    into_existing("vhdx", "block_size=1M");
}

/// An image of `from` bytes with `writes` gets `to` bytes.
fn resized(format: &'static str, options: &str, from: &str, writes: &[&str], to: u64) -> usize {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, "top", from]);
    write(&folder, format, "top", writes);
    resize(folder, format, to)
}

fn resize(folder: Folder, format: &'static str, to: u64) -> usize {
    let top = Image { name: "top", format, watch: Watch::Whole };
    let mut scenario = Scenario::new("resize", folder, &[top]);
    scenario.subsets = 1;
    // All that is written to any of them lies there.
    scenario.head = (to > 100 * MIB).then_some(16);
    scenario.params.set("size", to).set("preallocation", "off").set("shrink", true);
    scenario.run()
}

const MIB: u64 = 1 << 20;
const WRITES: [&str; 3] = ["write -P 7 5000k 1500k", "write -P 8 100k 30k", "write -P 9 9500k 100k"];

#[test]
fn resize_of_a_dynamic_vhd() {
    // The first need no other table, the last one's goes behind everything else.
    for to in [11 * MIB, 11 * MIB + 512, 3 * MIB + 512, 5 * MIB, 300 * MIB] {
        assert!(resized("vpc", "force_size=on", "10M", &WRITES, to) > 3, "{to}");
    }
    // Nothing but the footer follows the table.
    assert!(resized("vpc", "force_size=on", "10M", &["read 0 1k"], 300 * MIB) > 3);
}

#[test]
fn a_table_that_moved_comes_back() {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "vpc", "-o", "force_size=on", "top", "10M"]);
    write(&folder, "vpc", "top", &WRITES);
    let machine = Machine::new().with_workers(1);
    let device = machine.add_writable(std::fs::read(folder.path("top")).expect("it was made"));
    let mut image = Value::map();
    image.set("device", u64::from(device.0)).set("filename", "top").set("format", "vpc");
    let mut params = Value::map();
    params.set("op", "resize").set("version-major", 10u64).set("version-minor", 0u64).set("image", image);
    params.set("size", 300 * MIB);
    assert_eq!(instar_ops::run(&machine, &params), 0, "{:?}", machine.emitted());
    let bytes = machine.disk(device).to_bytes();
    std::fs::write(folder.path("top"), &bytes).expect("there is room");
    write(&folder, "vpc", "top", &["write -P 5 30M 64k"]);
    assert!(resize(folder, "vpc", 10 * MIB) > 5);
}

#[test]
fn resize_of_a_fixed_vhd() {
    for to in [11 * MIB, 10 * MIB + 512, 3 * MIB + 512, 10 * MIB - 512] {
        assert!(resized("vpc", "subformat=fixed,force_size=on", "10M", &WRITES, to) > 3, "{to}");
    }
}

#[test]
fn resize_of_a_dynamic_vhdx() {
    // The last one's table goes behind everything else.
    for to in [11 * MIB, 11 * MIB + 512, 3 * MIB + 512, 5 * MIB, 130 << 30] {
        assert!(resized("vhdx", "block_size=1M", "10M", &WRITES, to) > 3, "{to}");
    }
    assert!(resized("vhdx", "block_size=8M", "9999k", &WRITES, 20 * MIB) > 3);
}

#[test]
fn resize_of_a_fixed_vhdx() {
    for to in [11 * MIB, 11 * MIB + 512, 3 * MIB + 512] {
        assert!(resized("vhdx", "subformat=fixed,block_size=1M", "9999k", &WRITES, to) > 3, "{to}");
    }
}
