//! Files that the user names instead of (or beside) those that images name: `backing.file.filename=..`,
//! `data-file.filename=..`.
//!
//! They are the user's own words, as the image on top is: opened before the guest starts, not by the policy.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use instar_abi::drivers::{FORMATS, PROTOCOLS};
use instar_abi::ops::{GivenParams, ImageParams, Pair};
use instar_render::QemuVersion;
use instar_render::escape::terminal;
use instar_vmm::target::Cache;
use instar_vmm::{Device, Mode, Parts};

use crate::call::Call;
use crate::file_options::Ways;
use crate::image_name::{ImageName, Pairs, option};
use crate::image_params::{image_params, number};
use crate::program::{Exit, Program};

/// What a file is for the image whose place it is said of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It is that image.
    Image,
    /// It holds that image's data.
    DataFile,
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
}

const BACKING: &str = "backing.";
const ABOVE: &str = "Could not open backing file: ";

/// Takes the files out of an image's options. Their names stay, for a command or a format that does not know of them to say
/// so.
pub fn take(options: &mut Pairs, version: QemuVersion) -> Result<Vec<Given>, String> {
    // Of the other formats, none has a data file: it is for them to say so.
    let has_data_file = |place: usize| {
        let driver = option(options, &format!("{}driver", BACKING.repeat(place)));
        driver.is_none_or(|name| name == "qcow2")
    };
    let mut nodes: Vec<(usize, Role)> = options.iter().filter_map(|(key, _)| node(key)).collect();
    nodes.retain(|(place, role)| *role == Role::Image || has_data_file(*place));
    nodes.sort_unstable();
    nodes.dedup();
    let mut files = Vec::new();
    let mut wrong = None;
    for (place, role) in nodes.iter().copied() {
        let head = head(place, role);
        let of_node = options.iter().filter(|(key, _)| node(key) == Some((place, role)));
        let strip = |(key, value): &(String, String)| (key.strip_prefix(&head).unwrap_or("").into(), value.clone());
        let file = file(of_node.map(strip).collect(), place, role, version);
        match file {
            Ok(file) => files.extend(file),
            Err(text) => wrong = wrong.or_else(|| Some(format!("{}{text}", ABOVE.repeat(place)))),
        }
    }
    options.retain_mut(|(key, _)| match node(key).filter(|node| nodes.contains(node)) {
        Some((place, role)) => {
            let is_name = key.ends_with(".filename");
            *key = format!("{}filename", head(place, role));
            is_name
        }
        None => true,
    });
    wrong.map_or(Ok(files), Err)
}

/// What the options of a file begin with.
fn head(place: usize, role: Role) -> String {
    format!("{}{}", BACKING.repeat(place), if role == Role::Image { "file." } else { "data-file." })
}

/// Of which image's file the option speaks, if of any. The first image's own file is not among them.
fn node(key: &str) -> Option<(usize, Role)> {
    let word = key.trim_start_matches(BACKING);
    let place = (key.len() - word.len()) / BACKING.len();
    match word.split('.').next() {
        Some("data-file") => Some((place, Role::DataFile)),
        Some("file") if place > 0 => Some((place, Role::Image)),
        _ => None,
    }
}

/// The file that options without their prefix name.
fn file(mut own: Pairs, place: usize, role: Role, version: QemuVersion) -> Result<Option<Given>, String> {
    if let Some(name) = option(&own, "").filter(|_| role == Role::DataFile) {
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
    let driver = option(&own, "driver");
    if let Some(name) = driver.as_deref().filter(|name| !PROTOCOLS.contains(name)) {
        let what = if role == Role::Image { "backing" } else { "data" };
        return Err(match FORMATS.contains(&name) {
            true => format!("instar cannot open a {what} file that lies in another image"),
            false => format!("Unknown driver '{name}'"),
        });
    }
    let name = option(&own, "filename");
    if name.is_some() {
        Ways::read(&Pairs::new(), &own, driver.as_deref().unwrap_or("file"))?;
    }
    match name {
        Some(path) if role == Role::DataFile && path.is_empty() => Err(nameless(driver.as_deref())),
        Some(path) => Ok(Some(Given { place, role, path: path.into(), driver })),
        None if role == Role::DataFile && driver.is_none() => Err("Must specify either driver or file".to_string()),
        None if role == Role::DataFile => Err(nameless(driver.as_deref())),
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
        for file in &image.given {
            let opened = open_one(program, call, (&image, device), file, commits)?;
            let index = call.devices.len();
            call.devices.push(opened);
            match file.role {
                Role::Image => params.given.push(GivenParams {
                    place: file.place as u64,
                    device: number(index),
                    filename: file.path.as_os_str().as_bytes().to_vec(),
                }),
                // By the option that names an open node: nodes are devices here.
                Role::DataFile => params
                    .options
                    .push(Pair { key: format!("{}data-file", BACKING.repeat(file.place)), value: index.to_string() }),
            }
        }
        described.push(params);
    }
    Ok(described)
}

/// `commits`: an image of the run is written down into another.
fn open_one(
    program: &Program,
    call: &mut Call,
    (image, on): (&ImageName, usize),
    file: &Given,
    commits: bool,
) -> Result<Device, Exit> {
    let Given { place, path, .. } = file;
    let place = *place;
    let named = image.given.iter().find(|other| other.place == place && other.role == Role::Image);
    let is_base =
        commits && call.base.as_deref().map_or(place == 1, |base| named.is_some_and(|named| named.path == base));
    let written = match file.role {
        Role::DataFile if place == 0 => parts_of(call, on).map(|parts| {
            // The user has named it: the image names no other.
            parts.data_files = 0;
            Parts::NONE
        }),
        Role::DataFile => is_base.then_some(Parts::NONE),
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
        let written = terminal(image.written.as_encoded_bytes());
        program.fail(&format!("Could not open '{written}': {}{text}", ABOVE.repeat(place)))
    })
}

/// The parts of the image, if it is changed where it is and may have a data file.
fn parts_of(call: &mut Call, device: usize) -> Option<&mut Parts> {
    let device = call.devices.get_mut(device)?;
    (device.mode != Mode::Read && !device.fresh && device.parts.data_files > 0).then_some(&mut device.parts)
}
