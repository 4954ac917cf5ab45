//! `create`, cut at every step: an image that was not finished is not taken for one.

use instar_cut::{Folder, Image, Scenario, Watch};
use instar_image::Value;

fn arrange(params: &mut Value, images: &[Value]) {
    let device = images[0].u64("device").expect("an image has a device");
    params.set("device", device).set("filename", "target");
    params.set("format", images[0].text("format").expect("an image has a format"));
}

fn create(format: &'static str, options: &[&str], own: bool) -> usize {
    let folder = Folder::new();
    std::fs::write(folder.path("target"), b"").expect("there is room");
    let mut scenario = Scenario::new("create", folder, &[Image { name: "target", format, watch: Watch::New }]);
    scenario.arrange = arrange;
    let options: Vec<Value> = options.iter().map(|text| Value::from(*text)).collect();
    scenario.own = own;
    scenario.params.set("options", options).set("size", 3u64 << 20);
    scenario.run()
}

#[test]
fn qcow2() {
    for options in [
        &[][..],
        &["cluster_size=512,refcount_bits=64"],
        &["compat=0.10"],
        &["preallocation=metadata,cluster_size=4k"],
        &["preallocation=falloc,extended_l2=on"],
    ] {
        assert!(create("qcow2", options, false) > 1, "{options:?}");
    }
}

#[test]
fn vpc() {
    for options in [&[][..], &["subformat=fixed"]] {
        // We read what has lost the copy of its footer, the stock tool does not.
        for own in [false, true] {
            assert!(create("vpc", options, own) > 1, "{options:?}");
        }
    }
}
