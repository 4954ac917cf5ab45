//! The files of a run, the operations on them, and what they should show.

use instar_image::{FileOffset, Value};
use instar_sim::{Disk, Machine};

use super::bitmaps::{Bitmap, Touched};
use super::kinds::{Kind, Rebases};
use super::numbers::Numbers;
use crate::{HEAP, cpu_milliseconds};

const SECTOR: u64 = 512;
/// Most sectors of a disk: 2 MiB and something.
const SECTORS: u64 = 4200;
/// Most bytes of a damaged disk that are read.
const DAMAGED_MAX: u64 = 64 << 20;
/// Most bytes of the heap, and most milliseconds, that one operation on a damaged image takes.
const HEAP_MAX: usize = 256 << 20;
/// Bytes of a device: a damaged image may claim to be all data.
const ROOM: u64 = 64 << 20;
const CPU_MAX: i64 = if cfg!(debug_assertions) { 60_000 } else { 3000 };
/// The image, and what it stands on: the names of further files are made from the first (see [`Machine`]).
pub(super) const TOP: &str = "disk";

/// A file by its name, and what it should show, if it is an image that another stands on.
struct File {
    name: String,
    disk: Disk,
}

/// What the top stands on.
struct Below {
    name: String,
    format: &'static str,
    shows: Vec<u8>,
}

pub struct World {
    pub(super) kind: &'static Kind,
    files: Vec<File>,
    below: Option<Below>,
    /// What the top should show; `None`: it was damaged.
    pub(super) shows: Option<Vec<u8>>,
    /// Names so far.
    made: usize,
    /// Its snapshots: names, and what they should show; not where that depends on what it has come to stand on.
    taken: Vec<(String, Option<Vec<u8>>)>,
    /// Counts may be too narrow for snapshots.
    amended: bool,
    /// Its bitmaps as they are to be, in the order of their names.
    pub(super) marks: Vec<Bitmap>,
    /// What the operation that runs changes.
    pub(super) touched: Touched,
}

/// Runs of bytes of one value each, a third of them zero.
fn content(numbers: &mut Numbers<'_>, sectors: u64) -> Vec<u8> {
    let len = (sectors * SECTOR) as usize;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let value = numbers.or_zero(96).saturating_sub(31) as u8;
        let run = if numbers.or_zero(2) == 0 { SECTOR } else { SECTOR * (1 + numbers.or_zero(1 << 11)) };
        // What follows from the place, too: bytes of another place are not taken for these.
        let end = (bytes.len() + run as usize).min(len);
        while bytes.len() < end {
            let mark = if value == 0 { 0 } else { value.wrapping_add((bytes.len() / 4096) as u8).max(1) };
            bytes.push(mark);
        }
        if numbers.or_zero(8) == 0 {
            bytes.resize(len, value);
        }
    }
    bytes
}

impl World {
    /// Makes an image. `None`: the numbers have ended.
    pub fn new(kind: &'static Kind, numbers: &mut Numbers<'_>) -> Option<Self> {
        let sectors = 1 + numbers.below(SECTORS)?;
        let mut world = Self {
            kind,
            files: Vec::new(),
            below: None,
            shows: None,
            made: 0,
            taken: Vec::new(),
            amended: false,
            marks: Vec::new(),
            touched: Touched::Something,
        };
        world.files.push(File { name: TOP.into(), disk: Disk::default() });
        if kind.options.contains("data_file=") {
            world.files.push(File { name: "data".into(), disk: Disk::default() });
        }
        if !kind.below.is_empty() && numbers.or_zero(2) == 0 {
            world.below = Some(world.lower(numbers)?);
        }
        let mut shows = vec![0; (sectors * SECTOR) as usize];
        let mut params = world.params("create");
        params.set("device", 0u64).set("filename", TOP).set("format", kind.format).set("size", sectors * SECTOR);
        let options = if kind.options.is_empty() { Vec::new() } else { vec![Value::from(kind.options)] };
        params.set("options", options);
        if kind.options.contains("data_file=") {
            params.set("data-device", 1u64);
        }
        if let Some(below) = &world.below {
            params.set("backing", below.name.as_str()).set("backing-format", below.format);
            params.set("backing-image", world.described(&below.name, below.format));
            let len = below.shows.len().min(shows.len());
            shows[..len].copy_from_slice(&below.shows[..len]);
        }
        world.must(&params, true);
        world.shows = Some(shows);
        if kind.undefined {
            world.learn(0);
        }
        Some(world)
    }

    pub(super) fn params(&self, op: &str) -> Value {
        let mut params = Value::map();
        params.set("op", op).set("version-major", 10u64).set("version-minor", 0u64);
        params
    }

    fn device(&self, name: &str) -> u64 {
        self.files.iter().position(|file| file.name == name).expect("it was made") as u64
    }

    fn described(&self, name: &str, format: &str) -> Value {
        let mut map = Value::map();
        map.set("device", self.device(name)).set("filename", name).set("format", format);
        if let Some(key) = self.kind.key.filter(|_| name == TOP) {
            let mut option = Value::map();
            option.set("key", key).set("value", "sec0");
            map.set("options", vec![option]);
        }
        map
    }

    pub(super) fn top(&self) -> Value {
        self.described(TOP, self.kind.format)
    }

    /// What is in the image's file.
    pub(super) fn top_bytes(&self) -> Vec<u8> {
        self.files.first().map(|file| file.disk.to_bytes()).unwrap_or_default()
    }

    /// A new file.
    fn add(&mut self, disk: Disk) -> String {
        self.made += 1;
        let name = format!("file{}", self.made);
        self.files.push(File { name: name.clone(), disk });
        name
    }

    /// A machine with all files.
    pub(super) fn machine(&mut self) -> Machine {
        let machine = Machine::new().with_workers(1).with_secret("sec0", "password").with_room(ROOM);
        for file in &mut self.files {
            let disk = std::mem::take(&mut file.disk);
            let fresh = disk.is_empty();
            let device = if fresh { machine.add_writable([]) } else { machine.add_writable_disk(disk) };
            machine.name(&file.name, device);
        }
        machine
    }

    /// The files as the machine has left them.
    pub(super) fn take_back(&mut self, machine: &Machine) {
        for (name, device) in machine.named() {
            let name = String::from_utf8_lossy(&name).into_owned();
            match self.files.iter_mut().find(|file| file.name == name) {
                Some(file) => file.disk = machine.disk(device),
                None => self.files.push(File { name, disk: machine.disk(device) }),
            }
        }
    }

    /// Runs an operation on all files.
    pub(super) fn run(&mut self, params: &Value) -> (u8, Machine) {
        let machine = self.machine();
        // Tests run beside one another.
        if self.shows.is_none() && !cfg!(test) {
            let _ = HEAP.set_limit(HEAP.allocated() + HEAP_MAX);
        }
        let begun = cpu_milliseconds();
        let status = instar_ops::run(&machine, params);
        let used = cpu_milliseconds() - begun;
        let _ = HEAP.set_limit(usize::MAX);
        assert!(used <= CPU_MAX, "{used} ms of processor time: {:?} {params:?}", self.kind);
        assert!(status <= 3 || status == 63, "status {status}");
        self.take_back(&machine);
        (status, machine)
    }

    /// Runs one that has to work: always, or if nothing is damaged.
    fn must(&mut self, params: &Value, always: bool) -> bool {
        let (status, machine) = self.run(params);
        let fine = status == 0;
        let op = params.text("op").unwrap_or_default();
        assert!(fine || (self.shows.is_none() && !always), "{:?}: {op}: {}", self.kind, told(&machine));
        fine
    }

    /// An image to stand on.
    fn lower(&mut self, numbers: &mut Numbers<'_>) -> Option<Below> {
        let formats = self.kind.below;
        let format = formats[numbers.below(formats.len() as u64)? as usize];
        let sectors = 1 + numbers.below(SECTORS)?;
        let shows = content(numbers, sectors);
        let source = self.add(Disk::from_bytes(&shows));
        if format == "raw" {
            return Some(Below { name: source, format, shows });
        }
        let name = self.add(Disk::default());
        let mut target = self.described(&name, format);
        target.set("zeroed", true);
        let mut params = self.params("convert");
        params.set("target", target).set("sources", vec![self.described(&source, "raw")]).set("sparse", 4096u64);
        if format == "vpc" {
            params.set("options", vec![Value::from("force_size=on")]);
        }
        self.must(&params, true);
        self.forget(&source);
        Some(Below { name, format, shows })
    }

    /// Drops a file that nothing needs.
    fn forget(&mut self, name: &str) {
        self.files.retain(|file| file.name != name);
    }

    /// Writes of one value, as `bench` does them.
    pub fn write(&mut self, numbers: &mut Numbers<'_>) {
        let disk = self.shows.as_ref().map_or(1 << 20, |shows| shows.len() as u64);
        let unit = [1, SECTOR, 4096][numbers.or_zero(3) as usize];
        let first = numbers.or_zero(disk) / unit * unit;
        let bits = [8, 13, 18][numbers.or_zero(3) as usize];
        let len = (1 + numbers.or_zero(1 << bits)).next_multiple_of(unit).min(disk);
        let (step, pattern) = (1 + numbers.or_zero(1 << 20) / unit * unit, numbers.or_zero(256));
        let at = |index: u64| if index == 0 { first } else { (first + index * step) % disk };
        let count = (0..1 + numbers.or_zero(6)).take_while(|index| at(*index) + len <= disk).count() as u64;
        if count == 0 {
            return;
        }
        let mut params = self.params("bench");
        params.set("image", self.top()).set("count", count).set("depth", 1 + numbers.or_zero(4)).set("offset", first);
        params.set("size", len).set("step", step).set("write", true).set("pattern", pattern);
        params.set("flush-interval", numbers.or_zero(3));
        if self.must(&params, false)
            && let Some(shows) = &mut self.shows
        {
            let ranges: Vec<_> = (0..count).map(|index| at(index)..at(index) + len).collect();
            ranges.iter().for_each(|range| shows[range.start as usize..range.end as usize].fill(pattern as u8));
            self.touched = Touched::Written(ranges);
        }
    }

    /// `convert -n`
    pub fn convert(&mut self, numbers: &mut Numbers<'_>) {
        let most = self.shows.as_ref().map_or(SECTORS, |shows| shows.len() as u64 / SECTOR);
        let sectors = if numbers.or_zero(2) == 0 { most } else { 1 + numbers.or_zero(most) };
        let bytes = content(numbers, sectors);
        let source = self.add(Disk::from_bytes(&bytes));
        let mut params = self.params("convert");
        let mut target = self.top();
        target.set("existing", true);
        params.set("target", target).set("sources", vec![self.described(&source, "raw")]);
        params.set("sparse", [0u64, 4096, 512][numbers.or_zero(3) as usize]);
        params.set("compress", self.kind.compresses && numbers.or_zero(3) == 0);
        let done = self.must(&params, false);
        self.forget(&source);
        if let Some(shows) = self.shows.as_mut().filter(|_| done) {
            shows[..bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// Another size. Not every format can have every one.
    pub fn resize(&mut self, numbers: &mut Numbers<'_>) {
        let size = SECTOR * (1 + numbers.or_zero(SECTORS));
        let how = ["off", "off", "off", "metadata", "falloc", "full"][numbers.or_zero(6) as usize];
        let mut params = self.params("resize");
        params.set("image", self.top()).set("size", size).set("preallocation", how).set("shrink", true);
        let (status, _) = self.run(&params);
        if let Some(shows) = self.shows.as_mut().filter(|_| status == 0) {
            let old = shows.len();
            shows.resize(size as usize, 0);
            // The stock tool, too, does not encrypt zeroes for places that are only reserved.
            if self.kind.undefined || (self.kind.key.is_some() && how != "off") {
                self.learn(old);
            }
        }
    }

    /// What was never written is nothing in particular here: the image shows what it shows, from that byte on.
    fn learn(&mut self, from: usize) {
        let shown = self.read(self.top()).unwrap_or_default();
        if let Some(shows) = self.shows.as_mut().filter(|shows| shows.len() == shown.len() && from < shown.len()) {
            shows[from..].copy_from_slice(&shown[from..]);
        }
    }

    /// Another backing file, or none.
    pub fn rebase(&mut self, numbers: &mut Numbers<'_>) {
        let can = match self.kind.rebases {
            Rebases::Never => false,
            Rebases::Children => self.below.is_some(),
            Rebases::Always => true,
        };
        if !can || self.kind.below.is_empty() {
            return;
        }
        let mut params = self.params("rebase");
        params.set("image", self.top());
        let below = if numbers.or_zero(3) == 0 { None } else { self.lower(numbers) };
        params.set("backing", below.as_ref().map_or("", |below| &below.name));
        if let Some(below) = &below {
            params.set("backing-format", below.format).set("new", self.described(&below.name, below.format));
        }
        params.set("compress", self.kind.compresses && numbers.or_zero(3) == 0);
        let done = self.must(&params, false);
        self.forget_snapshots();
        let old = if done { std::mem::replace(&mut self.below, below) } else { below };
        // A damaged image may name it still.
        if let Some(old) = old.filter(|_| self.shows.is_some()) {
            self.forget(&old.name);
        }
    }

    /// What it holds goes into what it stands on.
    pub fn commit(&mut self, numbers: &mut Numbers<'_>) {
        if self.below.is_none() {
            return;
        }
        let mut params = self.params("commit");
        params.set("image", self.top()).set("drop", numbers.or_zero(3) == 0);
        let done = self.must(&params, false);
        self.forget_snapshots();
        if let (Some(below), Some(shows), true) = (&mut self.below, &self.shows, done) {
            below.shows.resize(below.shows.len().max(shows.len()), 0);
            below.shows[..shows.len()].copy_from_slice(shows);
        }
    }

    /// It stands on something else now, or that shows something else.
    fn forget_snapshots(&mut self) {
        self.taken.iter_mut().for_each(|(_, shows)| *shows = None);
    }

    /// A snapshot is taken, gone back to, or given up.
    pub fn snapshot(&mut self, numbers: &mut Numbers<'_>) {
        if self.kind.format != "qcow2" {
            return;
        }
        let which = numbers.or_zero(self.taken.len() as u64) as usize;
        let (action, name) = match (numbers.or_zero(4), self.taken.get(which)) {
            (2, Some((name, _))) => ("apply", name.clone()),
            (3, Some((name, _))) => ("delete", name.clone()),
            _ => ("create", format!("taken{}", self.made)),
        };
        self.made += 1;
        let mut params = self.params("snapshot");
        params.set("image", self.top()).set("action", action).set("name", name.as_bytes().to_vec());
        params.set("date-sec", 1u64).set("date-nsec", 0u64);
        // Counts of a bit have no room for a second reference, and what is in a data file has no snapshots.
        let options = self.kind.options;
        let unable = self.amended || options.contains("refcount_bits=1") || options.contains("data_file=");
        self.touched = Touched::Nothing;
        // Bitmaps would not say what has changed then: going back is refused.
        let unable = unable || (action == "apply" && !self.marks.is_empty());
        let done = if unable { self.run(&params).0 == 0 } else { self.must(&params, false) };
        match (action, done) {
            (_, false) => {}
            ("create", _) => self.taken.push((name, self.shows.clone())),
            ("apply", _) => {
                let known = self.taken.get(which).and_then(|(_, shows)| shows.clone());
                if self.shows.is_some() {
                    self.shows = known.or_else(|| self.read(self.top()));
                }
            }
            _ => {
                self.taken.remove(which);
            }
        }
    }

    /// What the image says of itself changes, and what it shows does not.
    pub fn amend(&mut self, numbers: &mut Numbers<'_>) {
        if self.kind.format != "qcow2" {
            return;
        }
        let widths = ["1", "2", "4", "8", "16", "32", "64"];
        let option = match numbers.or_zero(4) {
            0 => String::from("compat=0.10"),
            1 => String::from("compat=1.1"),
            2 => format!("lazy_refcounts={}", ["on", "off"][numbers.or_zero(2) as usize]),
            _ => format!("refcount_bits={}", widths[numbers.or_zero(7) as usize]),
        };
        let mut params = self.params("amend");
        params.set("image", self.top()).set("options", vec![Value::from(option.into_bytes())]);
        params.set("force", false).set("help", false);
        self.touched = Touched::Nothing;
        self.amended |= self.run(&params).0 == 0;
    }

    fn look_at_snapshots(&mut self) {
        for (name, shows) in self.taken.clone() {
            let Some(shows) = shows else { continue };
            let shown = self.read_of(self.top(), Some(&name)).unwrap_or_default();
            same(self.kind, "a snapshot", &shown, &shows);
        }
    }

    /// Changes some bytes of the image's beginning, or of anything.
    pub fn damage(&mut self, numbers: &mut Numbers<'_>) {
        let disk = &mut self.files[0].disk;
        let len = [512, 8192, disk.len()][numbers.or_zero(3) as usize].min(disk.len());
        for _ in 0..=numbers.or_zero(4) {
            let value = [0, 1, 0x7f, 0x80, 0xff, numbers.or_zero(256) as u8][numbers.or_zero(6) as usize];
            disk.write(FileOffset::new(numbers.or_zero(len)), &[value]);
        }
        self.shows = None;
    }

    /// What an image shows, which is `len` bytes long at most.
    fn read(&mut self, image: Value) -> Option<Vec<u8>> {
        self.read_of(image, None)
    }

    /// The same of one of its snapshots.
    fn read_of(&mut self, image: Value, snapshot: Option<&str>) -> Option<Vec<u8>> {
        let out = self.add(Disk::default());
        let mut target = self.described(&out, "raw");
        target.set("zeroed", true);
        let mut params = self.params("convert");
        params.set("target", target).set("sources", vec![image]).set("sparse", 4096u64);
        if let Some(name) = snapshot {
            params.set("snapshot", format!("snapshot.name={name}"));
        }
        let (status, machine) = self.run(&params);
        let bytes = (status == 0).then(|| self.files.last().map(|file| file.disk.to_bytes())).flatten();
        self.forget(&out);
        assert!(bytes.is_some() || self.shows.is_none(), "{:?}: read: {}", self.kind, told(&machine));
        bytes
    }

    /// Compares all of it with what it should show, and checks it.
    pub fn look(&mut self) {
        let mut params = self.params("check");
        params.set("image", self.top());
        let (status, machine) = self.run(&params);
        let Some(shows) = self.shows.clone() else {
            self.look_at_damaged();
            return;
        };
        let text = machine.said() + &told(&machine);
        assert!(status == 0 || status == 63, "{:?}: check: {status} {text}", self.kind);
        same(self.kind, "the image", &self.read(self.top()).unwrap_or_default(), &shows);
        self.look_at_snapshots();
        if let Some(below) = self.below.take() {
            let shown = self.read(self.described(&below.name, below.format)).unwrap_or_default();
            same(self.kind, "what it stands on", &shown, &below.shows);
            self.below = Some(below);
        }
    }

    fn look_at_damaged(&mut self) {
        let mut params = self.params("info");
        params.set("image", self.top());
        let (_, machine) = self.run(&params);
        let emitted = machine.emitted();
        let size = emitted.iter().find_map(|(_, value)| value.u64("virtual-size"));
        if size.is_some_and(|size| size <= DAMAGED_MAX) {
            self.read(self.top());
        }
    }
}

/// The errors that were told.
fn told(machine: &Machine) -> String {
    machine.emitted().iter().filter_map(|(_, value)| value.text("message").map(String::from)).collect()
}

fn same(kind: &Kind, what: &str, shown: &[u8], should: &[u8]) {
    assert_eq!(shown.len(), should.len(), "{kind:?}: {what} has another length");
    let first = shown.iter().zip(should).position(|(a, b)| a != b);
    if let Some(at) = first {
        panic!("{kind:?}: {what} shows {:#x} at {at:#x} instead of {:#x}", shown[at], should[at]);
    }
}
