//! Images in other images, cut at every step: whatever the state, both are sound.

use instar_cut::{Folder, Image, SECRET, Scenario, Watch};

const SOURCE: Image = Image { name: "source", format: "raw", watch: Watch::Read };

/// A qcow2 with something in it, in an image of that format.
fn made(format: &str, create: &[&str], key: Option<&str>) -> Folder {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "raw", "source", "1000k"]);
    folder.stock("qemu-io", &["-f", "raw", "-c", "write -P 1 0 150k", "-c", "write -P 3 800k 200k", "source"]);
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "inner", "1100k"]);
    folder.stock("qemu-io", &["-f", "qcow2", "-c", "write -P 9 100k 300k", "-c", "write -z 500k 100k", "inner"]);
    let object = format!("secret,id={},data={}", SECRET.0, SECRET.1);
    let object = ["--object", object.as_str()];
    folder.stock("qemu-img", &[&["create", "-q", "-f", format], &object[..], create, &["target", "4M"]].concat());
    let key = key.map_or(String::new(), |key| format!("{key}={},", SECRET.0));
    let target = format!("driver={format},{key}file.filename=target");
    let convert = ["convert", "-n", "-f", "raw", "--target-image-opts", "inner", &target];
    folder.stock("qemu-img", &[&convert[..], &object[..]].concat());
    folder
}

fn converted(folder: Folder, format: &'static str, key: Option<&'static str>) -> usize {
    let target = Image { name: "target", format, watch: Watch::Sectors };
    let mut scenario = Scenario::new("convert", folder, &[target, SOURCE]);
    scenario.arrange = |params, images| {
        let mut target = images[0].clone();
        target.set("existing", true);
        params.set("target", target).set("sources", vec![images[1].clone()]).set("sparse", 4096u64);
    };
    scenario.key = key;
    scenario.run()
}

#[test]
fn written_into() {
    assert!(converted(made("qcow2", &["-o", "cluster_size=8k"], None), "qcow2 in qcow2", None) > 5);
    assert!(converted(made("vhdx", &[], None), "qcow2 in vhdx", None) > 5);
    assert!(converted(made("raw", &[], None), "qcow2 in raw", None) > 5);
    let luks = made("luks", &["-o", "key-secret=s,iter-time=1"], Some("key-secret"));
    assert!(converted(luks, "qcow2 in luks", Some("key-secret")) > 5);
}

#[test]
fn snapshot_taken() {
    let folder = made("qcow2", &["-o", "cluster_size=8k"], None);
    let target = Image { name: "target", format: "qcow2 in qcow2", watch: Watch::Whole };
    let mut scenario = Scenario::new("snapshot", folder, &[target]);
    scenario.params.set("action", "create").set("name", "a").set("date-sec", 0u64).set("date-nsec", 0u64);
    assert!(scenario.run() > 3);
}
