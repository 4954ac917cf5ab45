//! Snapshots taken, gone back to and given up, cut at every step. The disk and every snapshot show what they did, or what
//! they will; copied flags may be missing, and clusters may be leaked.

use instar_cut::{Folder, Image, Scenario, Watch};

const TOP: Image = Image { name: "top", format: "qcow2", watch: Watch::Whole };

/// An image with `options` and a history: its disk, two snapshots, and the disk after them.
fn image(options: &str) -> Folder {
    let folder = Folder::new();
    let object = "secret,id=s,data=swordfish";
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "--object", object, "-o", options, "top", "1M"]);
    let key = if options.contains("encrypt") { ",encrypt.key-secret=s" } else { "" };
    let named = format!("driver=qcow2,file.filename=top{key}");
    let write = |commands: &[&str]| {
        let mut arguments = vec!["--object", object, "--image-opts"];
        arguments.extend(commands.iter().flat_map(|command| ["-c", *command]));
        arguments.push(&named);
        folder.stock("qemu-io", &arguments);
    };
    let snapshot = |arguments: &[&str]| {
        folder.stock("qemu-img", &[&["snapshot", "--object", object, "--image-opts"], arguments, &[&named]].concat());
    };
    write(&["write -P 1 0 300k", "write -z 500k 64k"]);
    if key.is_empty() && !options.contains("refcount_bits=2") {
        write(&["write -c -P 2 704k 64k", "write -c -P 3 768k 64k"]);
    }
    snapshot(&["-c", "first"]);
    write(&["write -P 4 100k 100k", "write -P 5 640k 30k"]);
    snapshot(&["-c", "second"]);
    write(&["write -P 6 0 50k", "write -P 7 900k 20k"]);
    folder
}

fn scenario(folder: Folder, action: &str, name: &str) -> Scenario {
    let mut scenario = Scenario::new("snapshot", folder, &[TOP]);
    scenario.params.set("action", action).set("name", name.as_bytes().to_vec());
    scenario.params.set("date-sec", 1_700_000_000u64).set("date-nsec", 0u64);
    scenario.snapshots = true;
    scenario
}

const OPTIONS: [&str; 5] = [
    "cluster_size=64k",
    "cluster_size=4k,refcount_bits=8",
    "compat=0.10,cluster_size=16k",
    "extended_l2=on,cluster_size=16k",
    "cluster_size=4k,lazy_refcounts=on,refcount_bits=64",
];

#[test]
fn taken() {
    for options in OPTIONS {
        assert!(scenario(image(options), "create", "third").run() > 8, "{options}");
    }
}

#[test]
fn gone_back_to() {
    for options in OPTIONS {
        for name in ["first", "second"] {
            assert!(scenario(image(options), "apply", name).run() > 8, "{options}");
        }
    }
}

#[test]
fn given_up() {
    for options in OPTIONS {
        for name in ["first", "second"] {
            assert!(scenario(image(options), "delete", name).run() > 8, "{options}");
        }
    }
}

#[test]
fn in_small_clusters() {
    for (action, name) in [("create", "third"), ("apply", "first"), ("delete", "second")] {
        let mut scenario = scenario(image("cluster_size=512,refcount_bits=2"), action, name);
        if action != "delete" {
            // Two bits have no room for more.
            scenario.folder.stock("qemu-img", &["snapshot", "-d", "second", "top"]);
        }
        scenario.subsets = 1;
        assert!(scenario.run() > 8, "{action}");
    }
}

#[test]
fn encrypted() {
    for (action, name) in [("create", "third"), ("apply", "first"), ("delete", "second")] {
        let made = "encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s,cluster_size=16k";
        let mut scenario = scenario(image(made), action, name);
        (scenario.key, scenario.subsets) = (Some("encrypt.key-secret"), 1);
        assert!(scenario.run() > 8, "{action}");
    }
}

#[test]
fn of_disks_of_other_sizes() {
    for (size, action, name) in [("3M", "apply", "first"), ("300k", "apply", "second"), ("3M", "delete", "first")] {
        let folder = image("cluster_size=4k");
        folder.stock("qemu-img", &["resize", "-q", "--shrink", "top", size]);
        folder.stock("qemu-io", &["-c", "write -P 9 200k 64k", "top"]);
        assert!(scenario(folder, action, name).run() > 8, "{size} {action} {name}");
    }
}

#[test]
fn with_a_refcount_table_that_grows() {
    // One cluster of a table of 512 bytes counts 64 blocks of 64 clusters of 512 bytes: 2 MiB.
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=64", "top", "64M"]);
    folder.stock("qemu-io", &["-c", "write -P 1 0 1900k", "top"]);
    let mut scenario = scenario(folder, "create", "first");
    (scenario.subsets, scenario.head) = (0, Some(3));
    assert!(scenario.run() > 8);
}
