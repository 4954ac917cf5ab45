//! Files that the user names instead of (or beside) those that images name: `backing.file.filename=..`,
//! `data-file.filename=..`, `header.filename=..`. Each may be what another image shows (`backing.file.driver=luks`).
//!
//! They are the user's own words, as the image on top is: opened before the guest starts, not by the policy.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use instar_abi::drivers::{is_format, is_protocol};
use instar_abi::ops::{BelowParams, GivenParams, ImageParams, Pair};
use instar_render::QemuVersion;
use instar_render::escape::terminal;
use instar_vmm::target::Cache;
use instar_vmm::{Device, Mode, Parts};

use crate::call::Call;
use crate::file_options::Ways;
use crate::image_name::{Below, ImageName, NO_FILE, Pairs, drivers_below, option};
use crate::image_params::image_params;
use crate::program::{Exit, Program};

/// What a file is for the image whose place it is said of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It is that image.
    Image,
    /// It holds that image's data.
    DataFile,
    /// It holds that image's header (luks).
    Header,
}

/// The files beside an image's own: the option that names one, and the format whose images have it.
const BESIDE: [(Role, &str, &str); 2] = [(Role::DataFile, "data-file", "qcow2"), (Role::Header, "header", "luks")];

impl Role {
    /// What the file is called among the image's children.
    #[must_use]
    pub fn child(self) -> &'static str {
        BESIDE.iter().find(|(role, _, _)| *role == self).map_or("backing", |(_, child, _)| child)
    }

    /// The format whose images have such a file; `None`: all that have a chain.
    fn format(self) -> Option<&'static str> {
        BESIDE.iter().find(|(role, _, _)| *role == self).map(|(_, _, format)| *format)
    }
}

/// A file that the user names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The image's place in the chain: 1 is the backing file of the first.
    pub place: usize,
    /// What it is.
    pub role: Role,
    /// The file.
    pub path: PathBuf,
    /// The driver of files that is said to be its.
    pub driver: Option<String>,
    /// Drivers over the file, the lowest first: what they show is the image's.
    pub below: Vec<Below>,
}

impl Given {
    /// What the options of the file begin with.
    #[must_use]
    pub fn head(&self) -> String {
        head(self.place, self.role)
    }
}

/// What the options of a backing file begin with.
pub const BACKING: &str = "backing.";
const ABOVE: &str = "Could not open backing file: ";

/// What is wrong with what is said of a file.
#[derive(Debug)]
pub struct Wrong {
    /// In qemu-img's words.
    pub text: String,
    /// The file is opened whatever the command is.
    pub always: bool,
}

/// Takes the files out of an image's options. Their names stay, for a command or a format that does not know of them to say
/// so.
pub fn take(options: &mut Pairs, version: QemuVersion) -> Result<Vec<Given>, Wrong> {
    // Other formats have no such file: it is for them to say so.
    let has_file = |place: usize, role: Role| {
        let driver = option(options, &format!("{}driver", BACKING.repeat(place)));
        role.format().is_none_or(|format| driver.is_none_or(|name| name == format))
    };
    let mut nodes: Vec<(usize, Role)> = options.iter().filter_map(|(key, _)| node(key)).collect();
    nodes.retain(|(place, role)| has_file(*place, *role));
    nodes.sort_unstable();
    nodes.dedup();
    let mut files = Vec::new();
    let mut wrong: Option<Wrong> = None;
    for (place, role) in nodes.iter().copied() {
        let head = head(place, role);
        let of_node = options.iter().filter(|(key, _)| node(key) == Some((place, role)));
        let strip = |(key, value): &(String, String)| (key.strip_prefix(&head).unwrap_or("").into(), value.clone());
        let file = file(of_node.map(strip).collect(), place, role, version);
        match file {
            Ok(file) => files.extend(file),
            Err(text) => {
                let (text, always) = (format!("{}{text}", ABOVE.repeat(place)), role == Role::Header && place == 0);
                wrong = wrong.or(Some(Wrong { text, always }));
            }
        }
    }
    options.retain_mut(|(key, _)| match node(key).filter(|node| nodes.contains(node)) {
        Some((place, role)) => {
            let is_name = key.ends_with(".filename");
            if role != Role::Image {
                *key = format!("{}filename", head(place, role));
            }
            is_name
        }
        None => true,
    });
    wrong.map_or(Ok(files), Err)
}

/// What the options of a file begin with.
fn head(place: usize, role: Role) -> String {
    let file = if role == Role::Image { "file" } else { role.child() };
    format!("{}{file}.", BACKING.repeat(place))
}

/// Of which image's file the option speaks, if of any. The first image's own file is not among them.
fn node(key: &str) -> Option<(usize, Role)> {
    let word = key.trim_start_matches(BACKING);
    let place = (key.len() - word.len()) / BACKING.len();
    let first = word.split('.').next()?;
    if first == "file" {
        return (place > 0).then_some((place, Role::Image));
    }
    BESIDE.iter().find(|(_, child, _)| *child == first).map(|(role, _, _)| (place, *role))
}

/// The file that options without their prefix name.
fn file(mut own: Pairs, place: usize, role: Role, version: QemuVersion) -> Result<Option<Given>, String> {
    let is_beside = role != Role::Image;
    if let Some(name) = option(&own, "").filter(|_| is_beside) {
        return Err(version.no_node(&name));
    }
    // A raw disk is its file.
    while role == Role::DataFile && option(&own, "driver").as_deref() == Some("raw") {
        let is_whole = own.iter().all(|(key, _)| key == "driver" || key.starts_with("file."));
        if !is_whole {
            break;
        }
        own = own.iter().filter_map(|(k, v)| Some((k.strip_prefix("file.")?.to_string(), v.clone()))).collect();
    }
    // A driver alone is one for the backing file that the image names.
    let is_alone = !is_beside && own.iter().all(|(key, _)| key == "driver");
    let below = if is_alone { Vec::new() } else { drivers_below(&mut own, version)? };
    let driver = option(&own, "driver");
    if let Some(name) = driver.as_deref().filter(|name| !is_protocol(name) && !is_format(name)) {
        return Err(format!("Unknown driver '{name}'"));
    }
    let name = option(&own, "filename");
    if name.is_some() {
        Ways::read(&Pairs::new(), &own, driver.as_deref().unwrap_or("file"))?;
    }
    match name {
        Some(path) if is_beside && path.is_empty() => Err(nameless(driver.as_deref())),
        Some(path) => Ok(Some(Given { place, role, path: path.into(), driver, below })),
        None if !below.is_empty() => Err(NO_FILE.to_string()),
        None if is_beside && driver.is_none() => Err("Must specify either driver or file".to_string()),
        None if is_beside => Err(nameless(driver.as_deref())),
        None => Ok(None),
    }
}

fn nameless(driver: Option<&str>) -> String {
    format!("The '{}' block driver requires a file name", driver.unwrap_or("file"))
}

/// Opens those of every image of the call, behind the devices that there are; returns what the guest is told of the images.
pub fn open(program: &Program, call: &mut Call) -> Result<Vec<ImageParams>, Exit> {
    let commits = call.devices.iter().any(|device| device.parts.bases > 0);
    let mut described = Vec::new();
    for (image, device) in std::mem::take(&mut call.images) {
        let mut params = image_params(&image, device);
        let of_below = |options, given, head| Owner { image: &image, device, options, given, head, commits: false };
        let mut nodes = Vec::new();
        for (place, (below, mut told)) in image.below.iter().zip(params.below).enumerate() {
            let owner = of_below(&below.options, &below.given, "file.".repeat(image.below.len() - place));
            told.given = owner.open(program, call, &mut told.options, &mut nodes)?;
            nodes.push(told);
        }
        let owner = Owner { commits, ..of_below(&image.options, &image.given, String::new()) };
        params.given = owner.open(program, call, &mut params.options, &mut nodes)?;
        described.push(ImageParams { below: nodes, ..params });
    }
    Ok(described)
}

/// An image for which files are given: one that the user named, or one below it.
struct Owner<'o> {
    image: &'o ImageName,
    /// The device of the image's file.
    device: usize,
    options: &'o [(String, String)],
    given: &'o [Given],
    /// What its options begin with in full.
    head: String,
    /// One of its chain is written down into another.
    commits: bool,
}

impl Owner<'_> {
    /// Opens them. Backing files are returned; those beside an image become options of it, and what they lie in is added to
    /// `nodes`.
    fn open(
        &self,
        program: &Program,
        call: &mut Call,
        told: &mut Vec<Pair>,
        nodes: &mut Vec<BelowParams>,
    ) -> Result<Vec<GivenParams>, Exit> {
        let mut files = Vec::new();
        for file in self.given {
            let opened = self.open_one(program, call, file)?;
            let index = call.devices.len();
            call.devices.push(opened);
            let mut named = ImageName::file(file.path.clone(), None);
            named.below.clone_from(&file.below);
            let params = image_params(&named, index);
            let mut lower = Vec::new();
            for (place, (below, mut told)) in file.below.iter().zip(params.below).enumerate() {
                let head = format!("{}{}{}", self.head, file.head(), "file.".repeat(file.below.len() - place - 1));
                let (options, given) = (&below.options[..], &below.given[..]);
                let owner = Owner { image: self.image, device: index, options, given, head, commits: false };
                told.given = owner.open(program, call, &mut told.options, &mut lower)?;
                lower.push(told);
            }
            let shown = self.image.given_name(file, (self.options, self.given), &self.head);
            if file.role == Role::Image {
                files.push(GivenParams {
                    place: file.place as u64,
                    device: params.device,
                    filename: file.path.as_os_str().as_bytes().to_vec(),
                    shown,
                    below: lower,
                });
            } else {
                let name = format!("{}filename", file.head());
                if let (Some(pair), Some(shown)) = (told.iter_mut().find(|pair| pair.key == name), shown) {
                    pair.value = String::from_utf8_lossy(&shown).into_owned();
                }
                // By the option that names an open node: nodes are devices here.
                let key = file.head().trim_end_matches('.').to_string();
                told.push(Pair { key, value: params.device.to_string() });
                nodes.extend(lower);
            }
        }
        Ok(files)
    }

    fn open_one(&self, program: &Program, call: &mut Call, file: &Given) -> Result<Device, Exit> {
        let Given { place, path, .. } = file;
        let place = *place;
        let named = self.given.iter().find(|other| other.place == place && other.role == Role::Image);
        let is_base = self.commits
            && call.base.as_deref().map_or(place == 1, |base| named.is_some_and(|named| named.path == base));
        let written = match file.role {
            Role::DataFile if place == 0 => parts_of(call, self.device).map(|parts| {
                // The user has named it: the image names no other.
                parts.data_files = 0;
                Parts::NONE
            }),
            Role::Header if place == 0 => is_changed(call, self.device).then_some(Parts::NONE),
            Role::DataFile | Role::Header => is_base.then_some(Parts::NONE),
            Role::Image => call.devices.iter_mut().find(|device| is_base && device.parts.bases > 0).map(|above| {
                above.parts.bases = 0;
                above.parts.of_base()
            }),
        };
        let opened = match written {
            Some(parts) => program.existing_file(path, Cache::default())?.map(|device| Device { parts, ..device }),
            None => {
                let mut image = ImageName::file(path.clone(), None);
                image.protocol.clone_from(&file.driver);
                program.try_open(&image, Cache::default(), call.force_share)
            }
        };
        let opened = opened.and_then(|device| match program.wrong_driver(file.driver.as_deref(), &device, path) {
            Some(text) => Err(text),
            None => Ok(device),
        });
        opened.map_err(|text| {
            let written = terminal(self.image.written.as_encoded_bytes());
            program.fail(&format!("Could not open '{written}': {}{text}", ABOVE.repeat(place)))
        })
    }
}

/// The image is changed where it is.
fn is_changed(call: &Call, device: usize) -> bool {
    call.devices.get(device).is_some_and(|device| device.mode != Mode::Read && !device.fresh)
}

/// The parts of the image, if it is changed where it is and may have a data file.
fn parts_of(call: &mut Call, device: usize) -> Option<&mut Parts> {
    let is_changed = is_changed(call, device);
    let device = call.devices.get_mut(device)?;
    (is_changed && device.parts.data_files > 0).then_some(&mut device.parts)
}
