//! What an image says of itself changed, cut at every step: disk and snapshots show what they did all the time; copied flags may
//! be missing, and clusters may be leaked.

use instar_cut::{Folder, Image, SECRET, Scenario, Watch};
use instar_image::Value;

const TOP: Image = Image { name: "top", format: "qcow2", watch: Watch::Whole };

/// An image with zero clusters of all kinds, over a backing file or not, and with snapshots or not.
fn image(options: &str, backed: bool, snapshots: bool) -> Folder {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "base", "1M"]);
    folder.stock("qemu-io", &["-f", "qcow2", "-c", "write -P 9 0 1M", "base"]);
    let below: &[&str] = if backed { &["-b", "base", "-F", "qcow2"] } else { &[] };
    folder.stock("qemu-img", &[&["create", "-q", "-f", "qcow2", "-o", options], below, &["top", "1M"]].concat());
    let write = |commands: &[&str]| {
        let mut arguments = vec!["-f", "qcow2"];
        arguments.extend(commands.iter().flat_map(|command| ["-c", *command]));
        arguments.push("top");
        folder.stock("qemu-io", &arguments);
    };
    write(&["write -P 1 0 300k", "write -z 500k 64k", "write -z 100k 64k"]);
    if snapshots {
        folder.stock("qemu-img", &["snapshot", "-c", "first", "top"]);
        write(&["write -P 4 100k 100k", "write -z 0 64k", "write -P 5 640k 30k"]);
        folder.stock("qemu-img", &["snapshot", "-c", "second", "top"]);
        write(&["write -z -u 200k 64k"]);
    }
    folder
}

fn amended(folder: Folder, option: &str, what: &str) -> usize {
    let images = [TOP, Image { name: "base", format: "qcow2", watch: Watch::Read }];
    let mut scenario = Scenario::new("amend", folder, &images);
    scenario
        .params
        .set("options", vec![Value::from(option.as_bytes().to_vec())])
        .set("force", false)
        .set("help", false);
    scenario.snapshots = true;
    let states = scenario.run();
    println!("{what}, {option}: {states} states");
    states
}

#[test]
fn to_version_2() {
    for (options, backed, snapshots) in [
        ("cluster_size=64k", false, false),
        ("cluster_size=64k", false, true),
        ("cluster_size=64k", true, false),
        ("cluster_size=16k,lazy_refcounts=on", true, true),
    ] {
        assert!(amended(image(options, backed, snapshots), "compat=0.10", options) > 3, "{options}");
    }
}

#[test]
fn to_version_3() {
    for option in ["compat=1.1", "compat=1.1,lazy_refcounts=on,refcount_bits=64", "compat=v3,size=3M"] {
        assert!(amended(image("compat=0.10,cluster_size=4k", true, false), option, "version 2") > 2, "{option}");
    }
}

#[test]
fn another_width_of_refcounts() {
    for options in ["cluster_size=64k", "cluster_size=4k,refcount_bits=64", "cluster_size=512,refcount_bits=8"] {
        for (bits, snapshots) in [(1, false), (4, true), (32, true), (8, true), (16, false)] {
            if options.ends_with("=8") && bits == 8 {
                continue;
            }
            let option = format!("refcount_bits={bits}");
            if options == "cluster_size=64k" && bits == 16 {
                continue;
            }
            assert!(amended(image(options, true, snapshots), &option, options) > 2, "{options}");
        }
    }
}

#[test]
fn flags_and_size() {
    for option in ["lazy_refcounts=on", "size=3M", "size=512k", "size=2M,refcount_bits=8,lazy_refcounts=on"] {
        assert!(amended(image("cluster_size=16k", true, false), option, "flags") > 0, "{option}");
    }
}

/// The same password in another slot, and in the only one that is in use: whatever is cut, it opens the image.
#[test]
fn key_slots() {
    for (format, options, prefix) in [
        ("luks", "iter-time=1,key-secret=s", ""),
        ("qcow2", "cluster_size=64k,encrypt.format=luks,encrypt.iter-time=1,encrypt.key-secret=s", "encrypt."),
    ] {
        let key: &'static str = if prefix.is_empty() { "key-secret" } else { "encrypt.key-secret" };
        for (words, force) in [
            ("state=active,new-secret=s,iter-time=1", false),
            ("state=active,new-secret=s,iter-time=1,keyslot=0", true),
        ] {
            let folder = Folder::new();
            let object = format!("secret,id={},data={}", SECRET.0, SECRET.1);
            folder.stock("qemu-img", &["create", "-q", "-f", format, "--object", &object, "-o", options, "top", "64k"]);
            let named = format!("driver={format},{key}={},file.filename=top", SECRET.0);
            folder.stock("qemu-io", &["--object", &object, "--image-opts", "-c", "write -P 5 0 64k", &named]);
            let mut scenario = Scenario::new("amend", folder, &[Image { name: "top", format, watch: Watch::Whole }]);
            scenario.key = Some(key);
            let option = words.split(',').map(|word| format!("{prefix}{word}")).collect::<Vec<_>>().join(",");
            scenario.params.set("options", vec![Value::from(option.as_bytes().to_vec())]);
            scenario.params.set("force", force).set("help", false);
            let states = scenario.run();
            println!("{format}, {option}: {states} states");
            assert!(states > 5, "{format}");
        }
    }
}
