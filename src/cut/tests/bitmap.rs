//! Persistent bitmaps changed, cut at every step. The disk is what it was, and all bitmaps are as they were, or all as they
//! were wanted; clusters may be leaked.

use instar_cut::{Folder, Image, Scenario, Watch};
use instar_image::Value;

const TOP: Image = Image { name: "top", format: "qcow2", watch: Watch::Whole };
const OTHER: Image = Image { name: "other", format: "qcow2", watch: Watch::Read };
const BASE: Image = Image { name: "base", format: "qcow2", watch: Watch::Read };

/// An image with `options` and two bitmaps; `other` has one.
fn image(options: &str, more: &[&str]) -> Folder {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "base", "8M"]);
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "other", "8M"]);
    folder.stock("qemu-img", &["bitmap", "--add", "-g", "4k", "other", "far"]);
    folder.stock("qemu-io", &["-c", "write -P 1 3M 70k", "-c", "write -P 1 7M 1M", "other"]);
    let create = [&["create", "-q", "-f", "qcow2", "-o", options], more, &["top", "8M"]].concat();
    folder.stock("qemu-img", &create);
    folder.stock("qemu-img", &["bitmap", "--add", "-g", "512", "top", "first"]);
    folder.stock("qemu-io", &["-c", "write -P 1 0 300k", "-c", "write -P 2 5M 10k", "top"]);
    folder.stock("qemu-img", &["bitmap", "--add", "top", "second"]);
    folder.stock("qemu-io", &["-c", "write -P 3 1M 150k", "top"]);
    folder
}

fn actions(list: &[(&str, &str)]) -> Value {
    let action = |(action, from): &(&str, &str)| {
        let mut map = Value::map();
        map.set("action", *action).set("from", from.as_bytes().to_vec());
        map
    };
    Value::from(list.iter().map(action).collect::<Vec<_>>())
}

fn scenario(folder: Folder, images: &[Image], name: &str, list: &[(&str, &str)]) -> Scenario {
    let mut scenario = Scenario::new("bitmap", folder, images);
    scenario.params.set("actions", actions(list)).set("name", name.as_bytes().to_vec());
    scenario.bitmaps = true;
    scenario
}

const OPTIONS: [&str; 4] =
    ["cluster_size=64k", "cluster_size=512,refcount_bits=1", "extended_l2=on", "cluster_size=4k"];

const LISTS: [(&str, &[(&str, &str)]); 8] = [
    ("third", &[("add", "")]),
    ("first", &[("remove", "")]),
    ("first", &[("clear", "")]),
    ("second", &[("disable", "")]),
    ("second", &[("merge", "first")]),
    ("first", &[("merge", "second")]),
    ("third", &[("add", ""), ("merge", "first"), ("merge", "second"), ("disable", "")]),
    ("first", &[("remove-all", "")]),
];

#[test]
fn one_action_after_the_other() {
    for options in OPTIONS {
        for (name, list) in LISTS {
            let states = scenario(image(options, &[]), &[TOP], name, list).run();
            assert!(states > 4, "{options} {list:?}: {states}");
        }
    }
}

#[test]
fn the_first_one() {
    for options in OPTIONS {
        let folder = image(options, &[]);
        folder.stock("qemu-img", &["bitmap", "--remove", "top", "first"]);
        folder.stock("qemu-img", &["bitmap", "--remove", "top", "second"]);
        assert!(scenario(folder, &[TOP], "new", &[("add", "")]).run() > 4, "{options}");
    }
}

#[test]
fn merged_from_another_image() {
    for options in OPTIONS {
        for name in ["first", "second"] {
            let mut scenario = scenario(image(options, &[]), &[TOP, OTHER], name, &[("merge", "far"), ("enable", "")]);
            scenario.arrange = |params, images| {
                params.set("image", images[0].clone()).set("source", images[1].clone());
            };
            assert!(scenario.run() > 4, "{options} {name}");
        }
    }
}

#[test]
fn of_an_image_with_a_backing_file_and_a_snapshot() {
    let long = format!("{}base", "./".repeat(200));
    for name in ["base", &long] {
        for (bitmap, list) in LISTS {
            let folder = image("cluster_size=4k", &["-b", name, "-F", "qcow2"]);
            folder.stock("qemu-img", &["snapshot", "-c", "before", "top"]);
            assert!(scenario(folder, &[TOP, BASE], bitmap, list).run() > 4, "{list:?}");
        }
    }
}

#[test]
fn beside_one_that_is_inconsistent() {
    for list in [&[("remove", "")][..], &[("remove-all", "")]] {
        let folder = image("cluster_size=4k", &[]);
        folder.abort("qemu-io", &["-c", "write -P 3 2M 150k", "-c", "abort", "top"]);
        assert!(scenario(folder, &[TOP], "first", list).run() > 4, "{list:?}");
    }
}
