//! Every operation that changes images, of every format that can be changed, on a machine that fails: see
//! [`Scenario::faults`]. `INSTAR_FAULTS` is how many faults of each kind there are (`cargo test` has few), and
//! `INSTAR_FAULTS_SEED` another beginning. How many there were is printed (`--nocapture`).

use std::ffi::OsString;
use std::fs;
use std::sync::Mutex;

use instar_cut::{Counts, Folder, Image, SECRET, Scenario, Watch};
use instar_image::Value;

/// Faults of each kind in a scenario.
const FAULTS: u64 = 2;
const MIB: u64 = 1 << 20;
const SOURCE: Image = Image { name: "source", format: "raw", watch: Watch::Read };
const BASE: Image = Image { name: "base", format: "qcow2", watch: Watch::Read };

/// A format, options of its images, the driver option that names the password.
type Made = (&'static str, &'static str, Option<&'static str>);

/// One of each kind of image that can be changed.
const ALL: [Made; 22] = [
    ("raw", "preallocation=off", None),
    ("qcow2", "cluster_size=64k", None),
    ("qcow2", "cluster_size=4k,refcount_bits=1", None),
    ("qcow2", "compat=0.10,cluster_size=512", None),
    ("qcow2", "extended_l2=on,cluster_size=16k", None),
    ("qcow2", "lazy_refcounts=on", None),
    ("qcow2", "data_file=data", None),
    ("qcow2", "encrypt.format=aes,encrypt.key-secret=s", Some("encrypt.key-secret")),
    ("qcow2", "encrypt.format=luks,encrypt.iter-time=1,encrypt.key-secret=s", Some("encrypt.key-secret")),
    ("qed", "cluster_size=4k,table_size=2", None),
    ("qcow", "encryption=off", None),
    ("qcow", "encrypt.format=aes,encrypt.key-secret=s", Some("encrypt.key-secret")),
    ("vdi", "static=off", None),
    ("vdi", "static=on", None),
    ("vpc", "force_size=on", None),
    ("vpc", "subformat=fixed,force_size=on", None),
    ("vhdx", "block_size=1M", None),
    ("vhdx", "subformat=fixed,block_size=1M", None),
    ("vmdk", "subformat=monolithicSparse", None),
    ("vmdk", "zeroed_grain=on", None),
    ("parallels", "cluster_size=64k", None),
    ("luks", "iter-time=1,key-secret=s", Some("key-secret")),
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs all of them, and says how many faults there were.
fn all(what: &str, format: &str, scenarios: impl IntoIterator<Item = Scenario>) {
    let mut counts = Counts::default();
    for (index, scenario) in scenarios.into_iter().enumerate() {
        let seed = number("INSTAR_FAULTS_SEED", 0) << 16 | index as u64;
        counts.add(scenario.faults(number("INSTAR_FAULTS", FAULTS), seed));
    }
    println!("{what}, {format}: {counts}");
}

fn object() -> String {
    format!("secret,id={},data={}", SECRET.0, SECRET.1)
}

fn create(folder: &Folder, (format, options, _): Made, name: &str, size: &str) {
    folder.stock("qemu-img", &["create", "-q", "-f", format, "--object", &object(), "-o", options, name, size]);
}

fn write(folder: &Folder, (format, _, key): Made, name: &str, commands: &[&str]) {
    let (object, key) = (object(), key.map(|key| format!("driver={format},{key}={},file.filename={name}", SECRET.0)));
    let mut arguments: Vec<&str> = commands.iter().flat_map(|c| ["-c", c]).collect();
    match &key {
        Some(options) => arguments.extend(["--object", &object, "--image-opts", options]),
        None => arguments.extend(["-f", format, name]),
    }
    folder.stock("qemu-io", &arguments);
}

const RAW: Made = ("raw", "preallocation=off", None);
const QCOW2: Made = ("qcow2", "cluster_size=64k", None);

/// An image `top` of 3 MiB with something in it, a source to be copied, and a backing file. The stock tool makes them once:
/// its passwords take their time.
fn images(made: Made) -> Folder {
    type Files = Vec<(OsString, Vec<u8>)>;
    static KNOWN: Mutex<Vec<(Made, Files)>> = Mutex::new(Vec::new());
    let known = || KNOWN.lock().expect("nothing panics with it");
    let files = known().iter().find(|(other, _)| *other == made).map(|(_, files)| files.clone());
    if let Some(files) = files {
        let folder = Folder::new();
        files.iter().for_each(|(name, bytes)| fs::write(folder.path(".").join(name), bytes).expect("there is room"));
        return folder;
    }
    let folder = new_images(made);
    let names = fs::read_dir(folder.path(".")).expect("it is a folder").flatten().map(|file| file.file_name());
    let read = |name: OsString| (name.clone(), fs::read(folder.path(".").join(name)).expect("it was made"));
    known().push((made, names.map(read).collect()));
    folder
}

fn new_images(made: Made) -> Folder {
    let folder = Folder::new();
    create(&folder, QCOW2, "base", "3M");
    write(&folder, QCOW2, "base", &["write -P 6 0 1M"]);
    create(&folder, RAW, "source", "2900k");
    write(&folder, RAW, "source", &["write -P 1 0 150k", "write -P 2 390k 5k", "write -P 3 2000k 600k"]);
    create(&folder, made, "top", "3M");
    write(&folder, made, "top", &["write -P 9 100k 300k", "write -z 200k 64k", "write -P 8 2900k 100k"]);
    folder
}

fn scenario(op: &str, made: Made, watch: Watch, folder: Folder) -> Scenario {
    let mut images = vec![Image { name: "top", format: made.0, watch }, SOURCE, BASE];
    if made.1.contains("data_file") {
        images.push(Image { name: "data", format: "raw", watch: Watch::Sound });
    }
    let mut scenario = Scenario::new(op, folder, &images);
    scenario.key = made.2;
    scenario
}

fn resize(made: Made, folder: Folder, size: u64, preallocation: &str) -> Scenario {
    let mut scenario = scenario("resize", made, Watch::Whole, folder);
    scenario.params.set("size", size).set("preallocation", preallocation).set("shrink", size < 3 * MIB);
    scenario
}

fn bench(made: Made, folder: Folder) -> Scenario {
    let mut scenario = scenario("bench", made, Watch::Sectors, folder);
    scenario.params.set("count", 8u64).set("depth", 2u64).set("offset", 3072u64).set("size", 5120u64);
    scenario.params.set("step", 370u64 << 10).set("write", true).set("pattern", 77u64).set("flush-interval", 3u64);
    scenario
}

fn convert(made: Made, folder: Folder) -> Scenario {
    let mut scenario = scenario("convert", made, Watch::Sectors, folder);
    scenario.arrange = |params, images| {
        let mut target = images[0].clone();
        target.set("existing", true);
        params.set("target", target).set("sources", vec![images[1].clone()]).set("sparse", 4096u64);
    };
    scenario
}

/// A `top` over `base`, which both are of that kind if it can be `over` something.
fn overlay(made: Made, over: bool) -> (Folder, Made) {
    let folder = Folder::new();
    let (upper, below) = if over { (made, QCOW2) } else { (QCOW2, made) };
    for (name, pattern) in [("base", "write -P 1 0 900k"), ("new", "write -P 2 0 1100k")] {
        let options = below.1.replace("data_file=data", &format!("data_file=data-{name}"));
        folder.stock("qemu-img", &["create", "-q", "-f", below.0, "--object", &object(), "-o", &options, name, "3M"]);
        write(&folder, below, name, &[pattern, "write -P 5 2M 64k"]);
    }
    let options = format!("{},backing_file=base,backing_fmt={}", upper.1, below.0);
    let size = if below.2.is_some() { vec!["-u", "top", "3M"] } else { vec!["top"] };
    let made = ["create", "-q", "-f", upper.0, "--object", &object(), "-o", &options];
    folder.stock("qemu-img", &[&made[..], &size].concat());
    write(&folder, upper, "top", &["write -P 7 64k 130k", "write -P 8 2600k 40k"]);
    create(&folder, RAW, "source", "64k");
    (folder, below)
}

fn rebase(made: Made, backing: &str, compress: bool) -> Scenario {
    let (folder, below) = overlay(made, true);
    let read = |name| Image { name, format: below.0, watch: Watch::Read };
    let images = [Image { name: "top", format: made.0, watch: Watch::Whole }, read("base"), read("new")];
    let mut scenario = Scenario::new("rebase", folder, &images);
    scenario.key = made.2;
    scenario.params.set("backing", backing).set("backing-format", below.0).set("compress", compress);
    if !backing.is_empty() {
        scenario.arrange = |params, images| {
            params.set("image", images[0].clone()).set("new", images[2].clone());
        };
    }
    scenario
}

fn commit(made: Made, of: bool) -> Scenario {
    let (folder, below) = overlay(made, of);
    let upper = if of { made.0 } else { "qcow2" };
    let mut images = vec![
        Image { name: "top", format: upper, watch: Watch::Whole },
        Image { name: "base", format: below.0, watch: Watch::Sound },
    ];
    if below.1.contains("data_file") {
        images.push(Image { name: "data-base", format: "raw", watch: Watch::Sound });
    }
    Scenario::new("commit", folder, &images)
}

/// Until its last step a new image is none.
fn new((format, options, key): Made) -> Scenario {
    let folder = images(RAW);
    fs::write(folder.path("target"), []).expect("there is room");
    let mut scenario = Scenario::new("convert", folder, &[Image { name: "target", format, watch: Watch::New }, SOURCE]);
    scenario.arrange = |params, images| {
        let mut target = images[0].clone();
        target.set("zeroed", true);
        params.set("target", target).set("sources", vec![images[1].clone()]).set("sparse", 4096u64);
    };
    scenario.params.set("options", vec![Value::from(options)]);
    scenario.key = key;
    scenario
}

fn of(format: &str) -> Vec<Made> {
    ALL.into_iter().filter(|made| made.0 == format).collect()
}

/// What every format can do: be written to (by `bench`, by a conversion, as the lower image of a commit), and made.
fn written(format: &str) {
    all("bench -w", format, of(format).into_iter().map(|made| bench(made, images(made))));
    all("convert -n", format, of(format).into_iter().map(|made| convert(made, images(made))));
    // The password of a lower image is not given in a scenario.
    let plain = |made: &Made| made.2.is_none();
    all("commit into", format, of(format).into_iter().filter(plain).map(|made| commit(made, false)));
    // The further file would have to be opened by the host.
    let alone = |made: &Made| !made.1.contains("data_file");
    // Of raw, any part is an image.
    if format != "raw" {
        all("convert", format, of(format).into_iter().filter(alone).map(new));
    }
}

fn resized(format: &str, sizes: &[u64]) {
    let each = of(format).into_iter().flat_map(|made| sizes.iter().map(move |size| (made, *size)));
    all("resize", format, each.map(|(made, size)| resize(made, images(made), size, "off")));
}

#[test]
fn raw() {
    written("raw");
    resized("raw", &[5 * MIB, MIB]);
}

#[test]
fn qcow2_written() {
    written("qcow2");
}

#[test]
fn qcow2_resized() {
    resized("qcow2", &[5 * MIB, 150 << 10]);
    let preallocated = ["metadata", "falloc", "full"];
    all("resize", "qcow2", preallocated.map(|how| resize(QCOW2, images(QCOW2), 5 * MIB, how)));
    // What is added must not show the longer backing file.
    let longer = || {
        let (folder, _) = overlay(QCOW2, true);
        folder.stock("qemu-img", &["resize", "-q", "base", "9M"]);
        folder
    };
    all("resize", "qcow2", [resize(QCOW2, longer(), 5 * MIB, "off")]);
}

#[test]
fn qcow2_with_snapshots_bitmaps_and_compressed_clusters() {
    let made: Made = ("qcow2", "cluster_size=16k", None);
    let image = || {
        let folder = images(made);
        write(&folder, made, "top", &["write -c -P 5 0 16k", "write -c -P 6 704k 16k"]);
        folder.stock("qemu-img", &["snapshot", "-c", "before", "top"]);
        folder.stock("qemu-img", &["bitmap", "--add", "top", "fine"]);
        folder
    };
    let resized = |size| resize(made, image(), size, "off");
    let mut scenarios = [bench(made, image()), convert(made, image()), resized(5 * MIB), resized(MIB)];
    // The bitmap stays marked as being in use, and so the image cannot be changed as before.
    scenarios.iter_mut().for_each(|scenario| scenario.once = true);
    all("bench -w, convert -n, resize", "qcow2 with a snapshot and a bitmap", scenarios);
}

#[test]
fn qcow2_snapshots() {
    let snapshot = |made: Made, action: &str, name: &str| {
        let folder = images(made);
        let object = object();
        let options = made.2.map_or(String::new(), |key| format!(",{key}={}", SECRET.0));
        let named = format!("driver=qcow2,file.filename=top{options}");
        for name in ["first", "second"] {
            let taken = ["snapshot", "--object", &object, "--image-opts", "-c", name, &named];
            folder.stock("qemu-img", &taken);
            write(&folder, made, "top", &["write -P 5 150k 100k", "write -P 4 2M 30k"]);
        }
        let mut scenario = scenario("snapshot", made, Watch::Whole, folder);
        scenario.params.set("action", action).set("name", name.as_bytes().to_vec());
        scenario.params.set("date-sec", 1_700_000_000u64).set("date-nsec", 0u64);
        scenario.snapshots = true;
        scenario
    };
    // Counts of a bit have no room for a snapshot, and what is in a data file can have none.
    let able = |made: &Made| !made.1.contains("refcount_bits=1") && !made.1.contains("data_file");
    for (action, name) in [("create", "third"), ("apply", "first"), ("delete", "second")] {
        let each = of("qcow2").into_iter().filter(able);
        all(&format!("snapshot, {action}"), "qcow2", each.map(|made| snapshot(made, action, name)));
    }
}

#[test]
fn qcow2_and_luks_amended() {
    let amended = |made: Made, option: &str| {
        let mut scenario = scenario("amend", made, Watch::Whole, images(made));
        scenario.params.set("options", vec![Value::from(option.as_bytes().to_vec())]);
        scenario.params.set("force", true).set("help", false);
        scenario
    };
    let old = |made: &Made| !made.1.contains("extended_l2") && !made.1.contains("data_file");
    all(
        "amend to wide counts",
        "qcow2",
        of("qcow2").into_iter().map(|made| amended(made, "compat=1.1,refcount_bits=32")),
    );
    let flags = "compat=0.10,refcount_bits=16,size=4M";
    all("amend to version 2", "qcow2", of("qcow2").into_iter().filter(old).map(|made| amended(made, flags)));
    let slots =
        |prefix: &str| format!("{prefix}state=active,{prefix}new-secret=s,{prefix}keyslot=0,{prefix}iter-time=1");
    let inside = of("qcow2").into_iter().filter(|made| made.1.contains("format=luks"));
    all("amend of key slots", "qcow2", inside.map(|made| amended(made, &slots("encrypt."))));
    all("amend of key slots", "luks", of("luks").into_iter().map(|made| amended(made, &slots(""))));
}

#[test]
fn qcow2_bitmaps_changed() {
    let merged = ("third", &["add", "merge", "disable"][..]);
    for (name, list) in [("first", &["remove"][..]), ("first", &["clear"]), ("second", &["merge"]), merged] {
        let able = |made: &Made| !made.1.contains("compat=0.10") && made.2.is_none();
        let scenarios = of("qcow2").into_iter().filter(able).map(|made| {
            let folder = images(made);
            folder.stock("qemu-img", &["bitmap", "--add", "-g", "512", "top", "first"]);
            write(&folder, made, "top", &["write -P 5 150k 100k", "write -P 4 2M 30k"]);
            folder.stock("qemu-img", &["bitmap", "--add", "top", "second"]);
            let action = |action: &&str| {
                let mut map = Value::map();
                map.set("action", *action).set("from", b"first".to_vec());
                map
            };
            let mut scenario = scenario("bitmap", made, Watch::Whole, folder);
            scenario.params.set("actions", list.iter().map(action).collect::<Vec<_>>());
            scenario.params.set("name", name.as_bytes().to_vec());
            scenario.bitmaps = true;
            scenario
        });
        all(&format!("bitmap {list:?}"), "qcow2", scenarios.collect::<Vec<_>>());
    }
}

#[test]
fn qcow2_rebased_and_committed() {
    let alone = |made: &Made| !made.1.contains("data_file") && !made.1.contains("luks");
    let each = || of("qcow2").into_iter().filter(alone);
    let mut scenarios: Vec<Scenario> = each().map(|made| rebase(made, "new", false)).collect();
    scenarios.extend([rebase(QCOW2, "", false), rebase(QCOW2, "new", true)]);
    all("rebase", "qcow2", scenarios);
    all("commit of", "qcow2", each().filter(|made| made.2.is_none()).map(|made| commit(made, true)));
}

#[test]
fn qed() {
    written("qed");
    resized("qed", &[5 * MIB]);
    all("rebase", "qed", ["new", ""].map(|backing| rebase(of("qed")[0], backing, false)));
    all("commit of", "qed", [commit(of("qed")[0], true)]);
}

#[test]
fn qcow() {
    written("qcow");
    all("commit of", "qcow", [commit(of("qcow")[0], true)]);
}

#[test]
fn vdi() {
    written("vdi");
    all("resize", "vdi", [5 * MIB, MIB + 512].map(|size| resize(of("vdi")[0], images(of("vdi")[0]), size, "off")));
}

#[test]
fn vpc() {
    written("vpc");
    resized("vpc", &[5 * MIB, MIB]);
}

#[test]
fn vhdx() {
    written("vhdx");
    resized("vhdx", &[5 * MIB, MIB + 512]);
}

#[test]
fn vmdk() {
    written("vmdk");
    resized("vmdk", &[5 * MIB, MIB + 512]);
}

#[test]
fn parallels() {
    written("parallels");
    resized("parallels", &[5 * MIB, MIB + 512]);
}

#[test]
fn luks() {
    written("luks");
    resized("luks", &[5 * MIB, MIB]);
}
