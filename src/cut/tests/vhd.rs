//! VHD and VHDX in place, cut at every step.

use instar_cut::{Folder, Image, Scenario, Watch};
use instar_image::Value;

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
