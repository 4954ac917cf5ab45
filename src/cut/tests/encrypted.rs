//! Encrypted images, cut at every step: written into, made larger and smaller, and made.

use instar_cut::{Folder, Image, SECRET, Scenario, Watch};
use instar_image::Value;

const SOURCE: Image = Image { name: "source", format: "raw", watch: Watch::Read };
const LUKS: &str = "key-secret";
const INSIDE: &str = "encrypt.key-secret";

fn object() -> String {
    format!("secret,id={},data={}", SECRET.0, SECRET.1)
}

fn options(format: &str, options: &str) -> (&'static str, String) {
    let key = if format == "luks" { LUKS } else { INSIDE };
    (key, format!("{key}={}{options}", SECRET.0))
}

fn source() -> Folder {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "raw", "source", "1000k"]);
    folder.stock("qemu-io", &["-f", "raw", "-c", "write -P 1 0 150k", "-c", "write -P 3 800k 200k", "source"]);
    folder
}

/// An encrypted image with something in it.
fn made(format: &str, more: &str) -> (Folder, &'static str) {
    let (folder, (key, options)) = (source(), options(format, more));
    folder.stock("qemu-img", &["create", "-q", "-f", format, "--object", &object(), "-o", &options, "target", "1100k"]);
    let opened = format!("driver={format},{key}={},file.filename=target", SECRET.0);
    let write = ["-c", "write -P 9 100k 300k", "-c", "write -z 500k 100k"];
    folder.stock("qemu-io", &[&["--object", &object(), "--image-opts"], &write[..], &[&opened]].concat());
    (folder, key)
}

fn arrange(params: &mut Value, images: &[Value], state: &str) {
    let mut target = images[0].clone();
    target.set(state, true);
    params.set("target", target).set("sources", vec![images[1].clone()]).set("sparse", 4096u64);
}

fn convert((folder, key): (Folder, &'static str), format: &'static str) -> usize {
    let target = Image { name: "target", format, watch: Watch::Sectors };
    let mut scenario = Scenario::new("convert", folder, &[target, SOURCE]);
    scenario.arrange = |params, images| arrange(params, images, "existing");
    scenario.key = Some(key);
    scenario.run()
}

#[test]
fn written_into() {
    for options in
        [",encrypt.format=aes", ",encrypt.format=aes,compat=0.10", ",encrypt.format=luks,encrypt.iter-time=1"]
    {
        assert!(convert(made("qcow2", options), "qcow2") > 5, "{options}");
    }
    assert!(convert(made("qcow", ",encrypt.format=aes"), "qcow") > 5);
    assert!(convert(made("luks", ",iter-time=1"), "luks") > 1);
}

#[test]
fn resized() {
    for (size, shrink) in [(5u64 << 20, false), (150 << 10, true)] {
        let (folder, key) = made("qcow2", ",encrypt.format=aes");
        let target = Image { name: "target", format: "qcow2", watch: Watch::Whole };
        let mut scenario = Scenario::new("resize", folder, &[target]);
        scenario.params.set("size", size).set("preallocation", "off").set("shrink", shrink);
        scenario.key = Some(key);
        assert!(scenario.run() > 1, "{size}");
    }
}

/// Until its last step a new image is none.
#[test]
fn made_anew() {
    for (format, more) in [
        ("luks", ",iter-time=1"),
        ("qcow2", ",encrypt.format=luks,encrypt.iter-time=1"),
        ("qcow2", ",encrypt.format=aes"),
        ("qcow", ",encrypt.format=aes"),
    ] {
        let (folder, (key, options)) = (source(), options(format, more));
        std::fs::write(folder.path("target"), []).expect("there is room");
        let mut scenario =
            Scenario::new("convert", folder, &[Image { name: "target", format, watch: Watch::New }, SOURCE]);
        scenario.arrange = |params, images| arrange(params, images, "zeroed");
        scenario.params.set("options", vec![Value::from(options.as_str())]);
        scenario.key = Some(key);
        assert!(scenario.run() > 3, "{format}");
    }
}
