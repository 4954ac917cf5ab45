//! Operations open what they need first, and seal the chain before they look at data: a guest that data takes over has no
//! file to ask for any more.

use std::fs;

use instar_cut::Folder;
use instar_image::Value;
use instar_sim::Machine;

fn image(device: u32, name: &str, format: &str) -> Value {
    let mut map = Value::map();
    map.set("device", u64::from(device)).set("filename", name).set("format", format);
    map
}

/// Runs an operation over a chain of two, and says what it came to and whether it sealed.
fn run(operation: &str, with: impl FnOnce(&mut Value)) -> (u8, bool) {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "base", "1M"]);
    folder.stock("qemu-io", &["-f", "qcow2", "-c", "write -P 9 100k 300k", "base"]);
    folder.stock("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top"]);
    let read = |name: &str| fs::read(folder.path(name)).expect("it was made");
    let machine = Machine::new();
    machine.name("top", machine.add_writable(read("top")));
    machine.name("base", machine.add_writable(read("base")));
    let target = machine.add_writable([]);
    assert_eq!(target.0, 2);
    let mut params = Value::map();
    params.set("op", operation).set("version-major", 10u64).set("version-minor", 0u64);
    with(&mut params);
    let status = instar_ops::run(&machine, &params);
    (status, machine.is_sealed())
}

#[test]
fn whatever_is_read_is_sealed() {
    let top = || image(0, "top", "qcow2");
    for (operation, chain) in [("info", false), ("info", true), ("map", false), ("check", false), ("measure", false)] {
        let outcome = run(operation, |params| {
            params.set("image", top());
            match operation {
                "info" => params.set("backing-chain", chain),
                "measure" => params.set("format", "raw"),
                _ => params,
            };
        });
        assert_eq!(outcome, (0, true), "{operation}");
    }
    let both = |params: &mut Value| {
        params.set("images", vec![top(), image(1, "base", "qcow2")]);
    };
    assert_eq!(run("compare", both), (0, true));
}

#[test]
fn whatever_is_copied_is_sealed() {
    let top = || image(0, "top", "qcow2");
    let convert = |params: &mut Value| {
        params.set("sources", vec![top()]).set("target", image(2, "target", "raw")).set("sparse", 4096u64);
    };
    assert_eq!(run("convert", convert), (0, true));
    assert_eq!(
        run("commit", |params| {
            params.set("image", top());
        }),
        (0, true)
    );
    let rebase = |params: &mut Value| {
        params.set("image", top()).set("backing", "");
    };
    assert_eq!(run("rebase", rebase), (0, true));
    let resize = |params: &mut Value| {
        params.set("image", top()).set("size", 2u64 << 20);
    };
    assert_eq!(run("resize", resize), (0, true));
    let bench = |params: &mut Value| {
        params.set("image", top()).set("count", 2u64).set("size", 4096u64).set("step", 4096u64).set("depth", 1u64);
    };
    assert_eq!(run("bench", bench), (0, true));
}
