//! Operations that change images in place, cut at every step.
//!
//! An operation runs in the simulator, which logs what it writes. [`Scenario::run`] then makes every state that a crash
//! may leave ([`instar_sim::Journal::cuts`]) into files again and lets the stock qemu-img judge: each image opens and
//! checks with leaks at worst, and each watched image shows what it showed before or what it shows in the end. A new
//! operation brings a scenario, no harness.
#![forbid(unsafe_code)]

mod bitmaps;
mod damage;
mod faults;
mod own;
mod vhdx_log;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use instar_image::{DeviceId, Value};
use instar_sim::{Disk, Machine};

pub use damage::{Damage, Numbers};
pub use faults::Counts;

/// What a disk writes as a whole, in bytes.
const SECTOR: usize = 512;

/// The device of an image's that lies in another one: so far behind that one's.
const FIRST_NEST: u64 = 1 << 16;

/// What follows the number of errors.
const FOUND: &str = " errors were found on the image.";

/// Exit status, output and errors of a check.
type Checked = (Option<i32>, String, String);

/// The secret that every run has: its name, and what it is.
pub const SECRET: (&str, &str) = ("s", "swordfish");

/// A folder of the test's own.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new one.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let path = root.join(format!("instar-cut-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    /// A file in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Runs a stock tool in it; it must work.
    pub fn stock(&self, program: &str, arguments: &[&str]) {
        let done = self.try_stock(program, arguments);
        assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Runs a stock tool that gives up without closing anything (`-c abort`).
    pub fn abort(&self, program: &str, arguments: &[&str]) {
        let done = self.try_stock(program, arguments);
        assert!(!done.status.success(), "{program} {arguments:?} has closed its files");
    }

    fn try_stock(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program).args(arguments).current_dir(&self.0).output().expect("qemu-utils is installed")
    }

    /// Gives the stock tool an image, whose password that driver option names.
    fn try_on(&self, command: &[&str], image: &Image, key: Option<&str>, more: &[&str]) -> Output {
        let key = |depth: &str| key.map_or(String::new(), |key| format!("{depth}{key}={},", SECRET.0));
        let options = match image.nest() {
            Some((inner, outer)) => {
                let key = key("file.");
                Some(format!("driver={inner},file.driver={outer},{key}file.file.filename={}", image.name))
            }
            None if key("").is_empty() => None,
            None => Some(format!("driver={},{}file.filename={}", image.format, key(""), image.name)),
        };
        let object = format!("secret,id={},data={}", SECRET.0, SECRET.1);
        let given = match &options {
            Some(options) => vec!["--object", &object, "--image-opts", options],
            None => vec!["-f", image.format, image.name],
        };
        self.try_stock("qemu-img", &[command, &given, more].concat())
    }

    /// What an image shows, as the stock tool reads it; of a large disk, `head` MiB and its size.
    fn content(&self, image: &Image, head: Option<u64>, key: Option<&str>) -> Result<Vec<u8>, String> {
        if let Some(head) = head {
            let (count, from) = (format!("count={head}"), format!("if={}", image.name));
            let read = ["dd", "-f", image.format, "-O", "raw", "bs=1M", &count, &from, "of=content.out"];
            let info = ["info", "-f", image.format, "--output=json", image.name];
            let (read, info) = (self.try_stock("qemu-img", &read), self.try_stock("qemu-img", &info));
            if !read.status.success() || !info.status.success() {
                return Err(String::from_utf8_lossy(&read.stderr).into_owned());
            }
            let info = String::from_utf8_lossy(&info.stdout).into_owned();
            // That of the file lies deeper.
            let size =
                info.lines().find(|line| line.starts_with("    \"virtual-size\"")).ok_or("info tells no size")?;
            let content = fs::read(self.path("content.out")).map_err(|e| e.to_string())?;
            return Ok([content, size.trim_end_matches(',').as_bytes().to_vec()].concat());
        }
        self.converted(image, key, &[])
    }

    /// What a conversion with these options makes of it.
    fn converted(&self, image: &Image, key: Option<&str>, options: &[&str]) -> Result<Vec<u8>, String> {
        let command = [&["convert", "-O", "raw"], options].concat();
        let done = self.try_on(&command, image, key, &["content.out"]);
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).into_owned());
        }
        fs::read(self.path("content.out")).map_err(|e| e.to_string())
    }

    /// The names of its internal snapshots, which have no blanks.
    fn snapshots(&self, image: &Image, key: Option<&str>) -> Result<Vec<String>, String> {
        let done = self.try_on(&["snapshot", "-l"], image, key, &[]);
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let name = |line: &str| line.split_whitespace().nth(1).map(str::to_string);
        Ok(text.lines().skip(2).filter_map(name).collect())
    }
}

impl Folder {
    fn is_empty(&self, image: &Image) -> bool {
        fs::metadata(self.path(image.name)).is_ok_and(|m| m.len() == 0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Its name in the folder.
    pub name: &'static str,
    /// Its format; `A in B` is an image of format A in one of format B.
    pub format: &'static str,
    /// What a crash may leave of it.
    pub watch: Watch,
}

impl Image {
    /// The formats of an image in another, and of that.
    fn nest(&self) -> Option<(&'static str, &'static str)> {
        self.format.split_once(" in ")
    }
}

/// What a crash may leave of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It shows what it showed before, or what it shows in the end.
    Whole,
    /// Each sector shows what it showed before, or what it shows in the end: the operation overwrites in place.
    Sectors,
    /// It is sound; what it shows is seen through another image.
    Sound,
    /// It did not exist: it does not open, or it is what it is in the end.
    New,
    /// It is only read.
    Read,
}

/// An operation on images.
#[derive(Debug)]
pub struct Scenario {
    /// Where the images are.
    pub folder: Folder,
    /// The images; the first is the one that the command names.
    pub images: Vec<Image>,
    /// The command's parameters but for the images.
    pub params: Value,
    /// Puts the images into the parameters.
    pub arrange: fn(&mut Value, &[Value]),
    /// Random parts of what is in flight at each step.
    pub subsets: u32,
    /// Of large disks, only so many MiB and the size are looked at.
    pub head: Option<u64>,
    /// The stock tool does not know such images (children of a VHD or VHDX): our own reading and check judge.
    pub own: bool,
    /// The images were not closed: they are judged as the stock tool has them once it has opened them for writing, which repairs
    /// those that still say so, and no others.
    pub unclosed: bool,
    /// The driver option by which the first image, an encrypted one, is given [`SECRET`].
    pub key: Option<&'static str>,
    /// Once it has failed it is not allowed again.
    pub once: bool,
    /// What is written is torn at multiples of so many bytes.
    pub tears: u64,
    /// The internal snapshots are part of what an image shows.
    pub snapshots: bool,
    /// The persistent bitmaps are part of what an image shows.
    pub bitmaps: bool,
    /// The images are damaged, and this is how many errors the stock tool's check may find in them until the end; its own repair
    /// makes each state sound.
    pub worst: Option<u64>,
}

impl Scenario {
    /// The operation `op` on `images`.
    #[must_use]
    pub fn new(op: &str, folder: Folder, images: &[Image]) -> Self {
        let mut params = Value::map();
        params.set("op", op).set("version-major", 10u64).set("version-minor", 0u64);
        Self {
            folder,
            images: images.to_vec(),
            params,
            arrange: only_image,
            subsets: 2,
            head: None,
            own: false,
            unclosed: false,
            key: None,
            once: false,
            tears: SECTOR as u64,
            snapshots: false,
            bitmaps: false,
            worst: None,
        }
    }

    /// Runs it, then cuts it everywhere; returns the number of states looked at.
    ///
    /// # Panics
    /// When a state is not what it may be.
    #[must_use]
    pub fn run(&self) -> usize {
        let (machine, devices) = self.machine(&self.disks(&self.folder));
        let params = self.arranged(&devices);
        self.reopen(&self.folder);
        let before = self.contents(&self.folder);
        machine.record();
        let status = instar_ops::run(&machine, &params);
        assert_eq!(status, 0, "{:?}", machine.emitted());
        let journal = machine.journal();
        assert!(!journal.is_empty(), "the operation changed nothing: the scenario shows nothing");
        let place = Folder::new();
        self.write(&place, &devices, &devices.iter().map(|d| machine.disk(*d)).collect::<Vec<_>>());
        let after = self.contents(&place);
        self.judge(&place, "in the end", &after, &after, true);
        let (mut states, mut judged) = (0, HashSet::new());
        journal.cuts(self.subsets, 1, |when, disks| {
            states += 1;
            // Different cuts can leave the same bytes, of which the stock tool need not be asked again.
            if !judged.insert(disks.iter().map(Disk::fingerprint).collect::<Vec<_>>()) {
                return;
            }
            self.write(&place, &devices, disks);
            self.reopen(&place);
            self.judge(&place, when, &before, &after, false);
        });
        states
    }

    /// See [`Scenario::unclosed`].
    fn reopen(&self, folder: &Folder) {
        for image in self.images.iter().filter(|image| self.unclosed && image.watch != Watch::Read) {
            folder.stock("qemu-io", &["-f", image.format, "-c", "flush", image.name]);
        }
    }

    fn key_of(&self, image: &Image) -> Option<&'static str> {
        self.key.filter(|_| self.images.first().is_some_and(|first| first.name == image.name))
    }

    /// An image as the parameters have it.
    fn described(&self, image: &Image, device: DeviceId) -> Value {
        let named = |device: u64, format: &str| {
            let mut map = Value::map();
            map.set("device", device).set("filename", image.name).set("format", format);
            map
        };
        let with_key = |mut map: Value| {
            let option = self.key_of(image).map(|key| {
                let mut option = Value::map();
                option.set("key", key).set("value", SECRET.0);
                option
            });
            map.set("options", option.into_iter().collect::<Vec<_>>());
            map
        };
        let device = u64::from(device.0);
        let Some((inner, outer)) = image.nest() else { return with_key(named(device, image.format)) };
        let id = device + FIRST_NEST;
        let mut below = with_key(named(device, outer));
        below.set("id", id).set("shown", image.name);
        let mut map = named(id, inner);
        map.set("options", Vec::<Value>::new()).set("below", vec![below]);
        map
    }

    /// The images as they are in `folder`.
    fn disks(&self, folder: &Folder) -> Vec<Disk> {
        let read = |image: &Image| fs::read(folder.path(image.name)).expect("the scenario made it");
        self.images.iter().map(|image| Disk::from_bytes(&read(image))).collect()
    }

    /// A machine with the images.
    fn machine(&self, disks: &[Disk]) -> (Machine, Vec<DeviceId>) {
        let machine = Machine::new().with_workers(1).with_secret(SECRET.0, SECRET.1);
        let mut devices = Vec::new();
        for (image, disk) in self.images.iter().zip(disks) {
            let device = match image.watch {
                Watch::Read => machine.add_disk(disk.clone()),
                _ if disk.is_empty() => machine.add_writable([]),
                _ => machine.add_writable_disk(disk.clone()),
            };
            machine.name(image.name, device);
            devices.push(device);
        }
        (machine, devices)
    }

    /// The command's parameters with the images on these devices.
    fn arranged(&self, devices: &[DeviceId]) -> Value {
        let described: Vec<Value> =
            self.images.iter().zip(devices).map(|(image, device)| self.described(image, *device)).collect();
        let mut params = self.params.clone();
        (self.arrange)(&mut params, &described);
        params
    }

    /// What an image shows, as `judge` reads it.
    fn content(&self, folder: &Folder, image: &Image) -> Result<Vec<u8>, String> {
        if self.own {
            return self.own_content(&self.disks(folder), image);
        }
        let key = self.key_of(image);
        let mut content = folder.content(image, self.head, key)?;
        if self.snapshots {
            for name in folder.snapshots(image, key)? {
                let shown = folder.converted(image, key, &["-l", &format!("snapshot.name={name}")])?;
                content.extend([name.as_bytes(), &shown].concat());
            }
        }
        let file = fs::read(folder.path(image.name)).map_err(|e| e.to_string())?;
        content.extend(self.bitmaps_of(&file, image)?);
        Ok(content)
    }

    /// What its persistent bitmaps say, if that is to be looked at.
    fn bitmaps_of(&self, file: &[u8], image: &Image) -> Result<Vec<u8>, String> {
        if !self.bitmaps || image.format != "qcow2" {
            return Ok(Vec::new());
        }
        bitmaps::shown(file).ok_or_else(|| "the bitmaps cannot be read".to_string())
    }

    /// Exit status, output and errors of a check.
    fn check(&self, folder: &Folder, image: &Image) -> Checked {
        if self.own {
            return self.own_check(&self.disks(folder), image);
        }
        let check = |image: &Image| {
            let checked = folder.try_on(&["check"], image, self.key_of(image), &[]);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (checked.status.code(), text(&checked.stdout), text(&checked.stderr))
        };
        // What the image lies in has to be sound, too.
        if let Some((_, outer)) = image.nest().filter(|_| self.key_of(image).is_none()) {
            let checked = check(&Image { format: outer, ..*image });
            if !matches!(checked.0, Some(0 | 63)) {
                return checked;
            }
        }
        check(image)
    }

    fn contents(&self, folder: &Folder) -> Vec<Vec<u8>> {
        let content = |image: &Image| match self.content(folder, image) {
            Err(_) if image.watch == Watch::New && folder.is_empty(image) => Vec::new(),
            content => content.unwrap_or_else(|e| panic!("{image:?}: {e}")),
        };
        self.images.iter().map(content).collect()
    }

    fn write(&self, folder: &Folder, devices: &[DeviceId], disks: &[Disk]) {
        for (image, device) in self.images.iter().zip(devices) {
            // What is only read is there from the first time on.
            if image.watch == Watch::Read && folder.path(image.name).exists() {
                continue;
            }
            fs::write(folder.path(image.name), disks[device.0 as usize].to_bytes()).expect("there is room");
        }
    }

    fn judge(&self, folder: &Folder, when: &str, before: &[Vec<u8>], after: &[Vec<u8>], clean: bool) {
        let content = |image: &Image| self.content(folder, image);
        self.judge_by(when, (before, after), clean, &content, &|image| self.check(folder, image));
        if self.worst.is_some() && !clean && !self.own {
            for image in self.images.iter().filter(|image| image.watch != Watch::Read) {
                // What it leaves of an old snapshot table it gives up the next time.
                for _ in 0..2 {
                    let _ = folder.try_on(&["check", "-r", "all"], image, self.key_of(image), &[]);
                }
            }
            self.judge_by(when, (before, after), true, &content, &|image| self.check(folder, image));
        }
    }

    fn judge_by(
        &self,
        when: &str,
        (before, after): (&[Vec<u8>], &[Vec<u8>]),
        clean: bool,
        content: &dyn Fn(&Image) -> Result<Vec<u8>, String>,
        check: &dyn Fn(&Image) -> Checked,
    ) {
        for (index, image) in self.images.iter().enumerate() {
            if image.watch == Watch::Read {
                continue;
            }
            let (old, new) = (&before[index], &after[index]);
            if image.watch == Watch::New && !clean {
                let shown = content(image);
                // What does not open is no image.
                assert!(shown.as_ref().map_or(true, |shown| shown == new), "{when}: {} is half an image", image.name);
                continue;
            }
            let (status, text, errors) = check(image);
            // 3: leaks; 63: the format has no check.
            let fine = match status {
                Some(0 | 63) => true,
                Some(3) => !clean,
                Some(2) => {
                    let found = text.lines().find_map(|line| line.strip_suffix(FOUND)?.parse().ok());
                    let no_more = found.is_some_and(|found: u64| self.worst.is_some_and(|worst| found <= worst));
                    !clean && (no_more || only_tells_of_the_cut(&text, &errors))
                }
                Some(1) => !clean && self.worst == Some(u64::MAX),
                _ => false,
            };
            assert!(fine, "{when}: check of {}: {status:?} {text}{errors}", image.name);
            if image.watch == Watch::Sound {
                continue;
            }
            let shown = match content(image) {
                Err(_) if self.worst.is_some() && old.is_empty() && !clean => continue,
                shown => shown.unwrap_or_else(|e| panic!("{when}: {}: {e}", image.name)),
            };
            let fine = match image.watch {
                Watch::New => shown == *new,
                Watch::Sectors => sectors_of_either(&shown, old, new),
                _ => shown == *old || shown == *new,
            };
            assert!(fine, "{when}: {} shows neither the old nor the new content", image.name);
        }
    }
}

/// An entry of a qcow2 does not say that its cluster is this disk's alone: whoever writes there copies it for nothing. Flags and
/// counts of a snapshot are in different clusters, and one of the two comes first.
fn misses_a_flag(line: &str) -> bool {
    let entry = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        u64::from_str_radix(rest.split_whitespace().next()?, 16).ok()
    };
    let entry = entry("l1_entry=").or_else(|| entry("l2_entry="));
    line.contains("OFLAG_COPIED") && line.ends_with(" refcount=1") && entry.is_some_and(|entry| entry >> 63 == 0)
}

/// The only error found is one that a run leaves where the format has no other way: flags that are missing, Parallels' mark of an open image,
/// of VDI a count of blocks that is larger than what the map refers to (they lie in different sectors), and of VHD a footer
/// at the end that is not the one at the beginning, which counts.
fn only_tells_of_the_cut(out: &str, err: &str) -> bool {
    let mut errors = out.lines().chain(err.lines()).filter(|line| line.contains("ERROR") && !line.contains("leaked"));
    if errors.clone().all(misses_a_flag) {
        return true;
    }
    let counted_first = |text: &str| {
        let (is, should) = text.split_once(", should be ")?;
        Some(is.parse::<u64>().ok()? < should.parse::<u64>().ok()?)
    };
    let fine = errors.next().is_some_and(|line| {
        let text = line.split_once("ERROR").map_or("", |(_, text)| text.trim_start_matches([':', ' ']));
        text == "image was not closed correctly"
            || text == "the footer at the end is damaged"
            || text.strip_prefix("allocated blocks mismatch, is ").and_then(counted_first).unwrap_or_default()
    });
    fine && errors.next().is_none() && out.contains("1 errors were found on the image.")
}

fn sectors_of_either(shown: &[u8], old: &[u8], new: &[u8]) -> bool {
    let part = |bytes: &[u8], index: usize| {
        let start = (index * SECTOR).min(bytes.len());
        bytes[start..(start + SECTOR).min(bytes.len())].to_vec()
    };
    (shown.len() == old.len() || shown.len() == new.len())
        && shown.chunks(SECTOR).enumerate().all(|(i, s)| s == part(old, i) || s == part(new, i))
}

fn only_image(params: &mut Value, images: &[Value]) {
    params.set("image", images[0].clone());
}
