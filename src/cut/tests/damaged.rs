//! Damaged images of the formats with tables of their own are changed in place: whatever is refused, nothing panics, and
//! nothing goes on for ever.

use std::fs;

use instar_cut::Folder;
use instar_image::Value;
use instar_sim::Machine;

/// Damaged copies of each image.
const ROUNDS: u64 = 40;

/// A small generator of numbers: what matters is that they are the same every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it fits")
    }
}

fn image(format: &str, options: &str) -> Vec<u8> {
    let folder = Folder::new();
    folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, "image", "3M"]);
    folder.stock("qemu-io", &["-f", format, "-c", "write -P 9 100k 300k", "-c", "write -P 8 2500k 100k", "image"]);
    fs::read(folder.path("image")).expect("it was made")
}

/// Where the header and the tables are: byte and length.
fn places(format: &str) -> &'static [(usize, usize)] {
    match format {
        "vdi" => &[(64, 448), (340, 60), (512, 12)],
        "parallels" => &[(0, 64), (16, 48), (64, 12)],
        "vmdk" => &[(0, 80), (512, 300), (10752, 16), (13312, 16), (15872, 16)],
        "qed" => &[(0, 64), (4096, 64), (20480, 8192)],
        _ => &[(0, 56), (48, 16), (4096, 512)],
    }
}

fn damage(bytes: &mut [u8], format: &str, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(3) {
        let (start, len) = places(format)[numbers.below(places(format).len())];
        let at = start + numbers.below(len);
        let value = [0, 1, 0x7f, 0x80, 0xff, numbers.next() as u8][numbers.below(6)];
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }
}

fn run(op: &str, format: &str, bytes: Vec<u8>, size: u64) {
    let machine = Machine::new().with_workers(1);
    let named = |device: u32, name: &str, format: &str| {
        let mut map = Value::map();
        map.set("device", u64::from(device)).set("filename", name).set("format", format);
        map
    };
    let target = machine.add_writable(bytes);
    machine.name("target", target);
    let source = machine.add((0..1_200_000u32).map(|n| (n / 100_000) as u8).collect::<Vec<_>>());
    machine.name("source", source);
    let mut params = Value::map();
    params.set("op", op).set("version-major", 10u64).set("version-minor", 0u64);
    if op == "convert" {
        let mut image = named(target.0, "target", format);
        image.set("existing", true);
        params.set("target", image).set("sources", vec![named(source.0, "source", "raw")]).set("sparse", 4096u64);
    } else {
        params.set("image", named(target.0, "target", format)).set("size", size).set("shrink", true);
        params.set("preallocation", "off");
    }
    let status = instar_ops::run(&machine, &params);
    assert!(status <= 1, "{status}");
}

fn all(format: &str, options: &str) {
    let good = image(format, options);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..ROUNDS {
        let mut bytes = good.clone();
        damage(&mut bytes, format, &mut numbers);
        run("convert", format, bytes.clone(), 0);
        for size in [1 << 20, 5 << 20, 400 << 20] {
            run("resize", format, bytes.clone(), size);
        }
    }
}

#[test]
fn vdi() {
    all("vdi", "static=off");
}

#[test]
fn parallels() {
    all("parallels", "cluster_size=64k");
}

#[test]
fn vmdk() {
    all("vmdk", "zeroed_grain=on");
}

#[test]
fn qed() {
    all("qed", "cluster_size=4k");
}

#[test]
fn qcow() {
    all("qcow", "encryption=off");
}
