//! Images that were not closed are changed in place, cut at every step: at each of them the stock tool finds the old or the
//! new content, once it has opened the image for writing.

use instar_cut::{Folder, Image, Scenario, Watch};

const SOURCE: Image = Image { name: "source", format: "raw", watch: Watch::Read };

/// An image whose writer was killed, and a source to be copied into it.
fn image(format: &str, options: &str) -> Folder {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, "top", "3M"]);
    let writes = ["write -P 9 100k 300k", "write -P 8 2500k 100k", "write -P 7 150k 64k", "write -P 6 1M 300k"];
    let mut arguments = vec!["-f", format];
    arguments.extend(writes.iter().flat_map(|write| ["-c", write]));
    arguments.extend(["-c", "abort", "top"]);
    folder.abort("qemu-io", &arguments);
    folder.stock("qemu-img", &["create", "-q", "-f", "raw", "source", "3M"]);
    folder.stock("qemu-io", &["-f", "raw", "-c", "write -P 1 0 250k", "-c", "write -P 3 2000k 400k", "source"]);
    folder
}

fn resize(folder: Folder, format: &'static str, size: u64) -> usize {
    let mut scenario = Scenario::new("resize", folder, &[Image { name: "top", format, watch: Watch::Whole }]);
    scenario.params.set("size", size).set("preallocation", "off").set("shrink", true);
    scenario.unclosed = true;
    scenario.run()
}

fn convert(folder: Folder, format: &'static str) -> usize {
    let top = Image { name: "top", format, watch: Watch::Sectors };
    let mut scenario = Scenario::new("convert", folder, &[top, SOURCE]);
    scenario.arrange = |params, images| {
        let mut target = images[0].clone();
        target.set("existing", true);
        params.set("target", target).set("sources", vec![images[1].clone()]).set("sparse", 4096u64);
    };
    scenario.unclosed = true;
    scenario.run()
}

#[test]
fn a_qcow2_with_lazy_refcounts() {
    for more in ["cluster_size=64k", "cluster_size=4k", "cluster_size=512,refcount_bits=64", "refcount_bits=1"] {
        let options = format!("lazy_refcounts=on,{more}");
        assert!(resize(image("qcow2", &options), "qcow2", 5 << 20) > 3, "{options}");
        assert!(resize(image("qcow2", &options), "qcow2", 1 << 20) > 3, "{options}");
        assert!(convert(image("qcow2", &options), "qcow2") > 3, "{options}");
    }
}

#[test]
fn a_qcow2_with_a_snapshot() {
    let folder = image("qcow2", "lazy_refcounts=on,cluster_size=4k");
    folder.stock("qemu-img", &["snapshot", "-c", "before", "top"]);
    folder.abort("qemu-io", &["-c", "write -P 5 50k 1M", "-c", "abort", "top"]);
    assert!(resize(folder, "qcow2", 5 << 20) > 3);
}

#[test]
fn a_vhdx_with_a_log() {
    for options in ["subformat=dynamic,block_size=1M", "subformat=dynamic,log_size=2M"] {
        assert!(convert(image("vhdx", options), "vhdx") > 3, "{options}");
    }
}

#[test]
fn a_qed_that_asks_to_be_checked() {
    assert!(resize(image("qed", "cluster_size=4k"), "qed", 5 << 20) > 0);
    assert!(convert(image("qed", "cluster_size=64k"), "qed") > 3);
}

#[test]
fn a_parallels_in_use() {
    assert!(convert(image("parallels", "cluster_size=64k"), "parallels") > 3);
    assert!(resize(image("parallels", "cluster_size=64k"), "parallels", 5 << 20) > 3);
}
