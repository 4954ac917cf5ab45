//! Opening images and chains, with qemu-img's words for what goes wrong.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::ops::{BelowParams, GivenParams, ImageParams, Pair};
use instar_image::chain::{Chain, Layer};
use instar_image::damage::{Damage, SECTOR};
use instar_image::image::SnapshotSelector;
use instar_image::limits::{CHAIN_DEPTH_MAX, PROBE_HEAD};
use instar_image::machine::{EAGAIN, Opener, Stat, display_name, has_a_writer, in_use};
use instar_image::names::{combine, without_file, without_protocol};
use instar_image::quirk::has;
use instar_image::{
    Backing, DeviceId, Error, FileOffset, Format, Kind, Machine, OpenContext, Probe, Purpose, Quirk, Result, Role,
    Source, Version,
};

use crate::told::warn;

/// An image as a parameter names it.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// The device.
    pub device: DeviceId,
    /// The name to show and to resolve relative names by.
    pub name: Vec<u8>,
    /// As the user wrote it, driver options and all: what messages show.
    pub written: Vec<u8>,
    /// The format said by the user or by the image above; absent: to be probed.
    pub format: Option<String>,
    /// Driver options of `--image-opts`.
    pub options: DriverOptions,
    /// Backing files that the user named, by their place in the chain.
    pub given: Vec<Given>,
}

/// A backing file that the user named, whatever the image above it says.
#[derive(Clone, Debug)]
pub struct Given {
    place: usize,
    device: DeviceId,
    name: Vec<u8>,
    shown: Option<Vec<u8>>,
    /// It lies in another image.
    is_below: bool,
}

impl Given {
    fn all(files: &[GivenParams]) -> Vec<Self> {
        let given = |file: &GivenParams| {
            Some(Self {
                place: usize::try_from(file.place).ok()?,
                device: DeviceId(file.device),
                name: file.filename.clone(),
                shown: file.shown.clone(),
                is_below: !file.below.is_empty(),
            })
        };
        files.iter().filter_map(given).collect()
    }
}

impl ImageSpec {
    /// An image that is open already, with nothing that the user said of it.
    pub const fn opened(device: DeviceId, name: Vec<u8>, written: Vec<u8>, format: Option<String>) -> Self {
        Self { device, name, written, format, options: Vec::new(), given: Vec::new() }
    }

    /// The user's options for the image at that place of the chain.
    pub fn options_at(&self, place: usize) -> DriverOptions {
        let options = (0..place).fold(self.options.clone(), |options, _| apart(&options).below);
        apart(&options).own.into_iter().filter(|(key, _)| key != "driver" && !key.starts_with(FILE)).collect()
    }

    /// As a parameter has it.
    pub fn of(image: &ImageParams) -> Self {
        Self {
            device: DeviceId(image.device),
            name: image.filename.clone(),
            written: image.written.as_ref().unwrap_or(&image.filename).clone(),
            format: image.format.clone(),
            options: pairs(&image.options),
            given: Given::all(&image.given),
        }
    }

    /// A driver below another.
    pub fn below(below: &BelowParams) -> Self {
        let name = below.filename.clone();
        let opened = Self::opened(DeviceId(below.device), name.clone(), name, Some(below.format.clone()));
        Self { options: pairs(&below.options), given: Given::all(&below.given), ..opened }
    }

    /// `Could not open 'name': ` before the error's text.
    pub fn could_not_open(&self, error: Error) -> Error {
        error.context(format!("Could not open '{}'", display_name(&self.written)))
    }
}

fn pairs(options: &[Pair]) -> DriverOptions {
    options.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect()
}

/// The format called `name`.
pub fn format_by_name(name: &str) -> Result<&'static dyn Format> {
    instar_registry::by_name(name).ok_or_else(|| Error::usage(format!("Unknown driver '{name}'")))
}

/// Finds out the format from the content.
pub fn probe(source: &dyn Source, device: DeviceId, name: &[u8]) -> Result<&'static dyn Format> {
    probe_in(source, device, source.stat(device)?.len, name)
}

fn probe_in(source: &dyn Source, device: DeviceId, len: u64, name: &[u8]) -> Result<&'static dyn Format> {
    // A file never has more bytes than its length: no need to bound further.
    let mut head = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(PROBE_HEAD)];
    // The stock tool looks at one sector: what else cannot be read is no reason to stop here.
    let damage = Damage::read(0, &mut head, |skip, buf| source.read(device, FileOffset::new(skip as u64), buf));
    let unread = |e: Error| e.context("Could not read image for determining its format");
    damage.good_until(0, SECTOR as usize).map_err(unread)?;
    Ok(instar_registry::probe(&Probe { head: &head, len, name }))
}

/// Opens images.
#[derive(Clone, Copy)]
pub struct Opening<'a> {
    /// The world.
    pub machine: &'a dyn Machine,
    /// Whose behaviour.
    pub version: Version,
}

/// What each image of a chain is opened for, by its number in the chain and its full name.
type Purposes<'a, 'p> = &'p dyn Fn(usize, &[u8]) -> Purpose<'a>;

impl<'a> Opening<'a> {
    /// Opens one image, without its backing file. The error has no `Could not open`.
    pub fn image(self, spec: &ImageSpec, purpose: Purpose<'a>) -> Result<Layer<'a>> {
        self.layer_at(spec.device, spec.name.clone(), spec.format.as_deref(), &spec.options, (purpose, false))
    }

    /// `lower`: as the backing file of an image that is open.
    fn layer_at(
        self,
        device: DeviceId,
        name: Vec<u8>,
        format: Option<&str>,
        options: &[(String, String)],
        (purpose, lower): (Purpose<'a>, bool),
    ) -> Result<Layer<'a>> {
        let source = self.machine.source();
        let named = format.map(format_by_name).transpose()?;
        let Stat { len, contended, .. } = source.stat(device)?;
        let format = match named {
            Some(format) => format,
            None => probe_in(source, device, len, &name)?,
        };
        if contended && !has(format, Quirk::SharedWithWriters) {
            return Err(has_a_writer(&name));
        }
        let opens_more = purpose.wants_data() || has(format, Quirk::SeveralFiles);
        let opener = opens_more.then_some(self.machine as &dyn Opener);
        let options: DriverOptions = options.iter().filter(|(key, value)| !is_alone(key, value)).cloned().collect();
        let cx = OpenContext { source, opener, device, name: &name, version: self.version, purpose, options: &options };
        // Who repairs wants to tell what was wrong.
        if purpose.writes() && !purpose.looks_at_metadata() {
            format.recover(self.machine, &cx, lower)?;
        }
        Ok(Layer { image: format.open(cx)?, format, device, name, shown: None, contended })
    }

    /// Opens an image and all that it stands on. The error has no `Could not open`.
    pub fn chain(self, spec: &ImageSpec, purpose: Purposes<'a, '_>) -> Result<Chain<'a>> {
        let own = apart(&spec.options).own;
        let top = (purpose(0, &spec.name), false);
        let mut layers = vec![self.layer_at(spec.device, spec.name.clone(), spec.format.as_deref(), &own, top)?];
        let mut above = apart(&spec.options);
        loop {
            let below = apart(&above.below);
            let next =
                self.next_layer(&layers, &above, &below.own, &spec.given, purpose).map_err(|(error, depth)| {
                    // Of a chain that is too long, two hundred times the same would say no more.
                    let above = if error.kind == Kind::Limit { 0 } else { depth };
                    (0..above).fold(error, |e, _| e.context("Could not open backing file"))
                })?;
            let Some(next) = next else { return Ok(Chain { layers }) };
            layers.push(next);
            above = below;
        }
    }

    /// The same to be read; the error says what could not be opened.
    pub fn to_read(self, spec: &ImageSpec) -> Result<Chain<'a>> {
        self.chain(spec, &|_, _| Purpose::Read).map_err(|e| spec.could_not_open(e))
    }

    /// The backing file that the image by itself names, as one that was not opened yet; `None`: there is none.
    pub fn below(self, layer: &Layer<'_>) -> Option<Result<ImageSpec>> {
        let backing = layer.image.backing()?;
        let stored = stored_name(layer.format, &backing);
        let opened = open_backing(self.machine, layer.device, &layer.name, &stored, false);
        Some(opened.map(|(device, name)| ImageSpec::opened(device, name.clone(), name, backing.format)))
    }

    /// The backing file of the last of `layers`. `said`: what the user said of that image, `options` of the backing file
    /// itself. An error comes with the number of images that it is the fault of the backing file of.
    fn next_layer(
        self,
        layers: &[Layer<'a>],
        said: &Apart,
        options: &[(String, String)],
        given: &[Given],
        purpose: Purposes<'a, '_>,
    ) -> core::result::Result<Option<Layer<'a>>, (Error, usize)> {
        let depth = layers.len();
        let Some(layer) = layers.last() else { return Ok(None) };
        let can_back = has(layer.format, Quirk::Backs);
        match (said.backing.as_deref(), said.below.first()) {
            (None, _) => {}
            (Some(""), None) => return Ok(None),
            (Some(""), Some((key, _))) => {
                let text =
                    format!("Block format '{}' does not support the option 'backing.{key}'", layer.format.name());
                return Err((Error::usage(text), depth.saturating_sub(1)));
            }
            (Some(_), _) if !can_back && !has(layer.format, Quirk::BackingOnlyByOption) => {
                return Err((Error::usage("Driver doesn't support backing files"), depth.saturating_sub(1)));
            }
            (Some(name), _) => {
                return Err((Error::usage(format!("Cannot find device='{name}' nor node-name='{name}'")), depth));
            }
        }
        let is_told = !said.below.is_empty();
        if is_told && !can_back {
            return Err((Error::usage("Driver doesn't support backing files"), depth.saturating_sub(1)));
        }
        let given = given.iter().find(|file| file.place == depth);
        self.backing_of(layer, options, is_told, given, depth, purpose).map_err(|error| (error, depth))
    }

    fn backing_of(
        self,
        layer: &Layer<'a>,
        options: &[(String, String)],
        is_told: bool,
        given: Option<&Given>,
        depth: usize,
        purpose: Purposes<'a, '_>,
    ) -> Result<Option<Layer<'a>>> {
        let (driver, mut own): (Vec<_>, Vec<_>) = options.iter().cloned().partition(|(key, _)| key == "driver");
        own.retain(|(key, _)| !key.starts_with(FILE));
        let driver = driver.last().map(|(_, name)| name.as_str());
        let backing = layer.image.backing();
        let format = driver.or(backing.as_ref().and_then(|backing| backing.format.as_deref()));
        if depth >= CHAIN_DEPTH_MAX && (given.is_some() || backing.is_some()) {
            return Err(Error::limit(format!("the backing chain has more than {CHAIN_DEPTH_MAX} images")));
        }
        if given.is_some_and(|file| file.is_below) && backing.is_some() {
            return Err(Error::usage("Can't specify 'file' and 'filename' options at the same time"));
        }
        let (device, name, purpose) = match (given, &backing) {
            (Some(file), _) => (file.device, file.name.clone(), purpose(depth, &file.name)),
            (None, Some(backing)) => {
                let stored = stored_name(layer.format, backing);
                let purpose = purpose(depth, &without_file(&combine(&layer.name, &stored)));
                let (device, name) = open_backing(self.machine, layer.device, &layer.name, &stored, purpose.writes())?;
                (device, name, purpose)
            }
            (None, None) if !is_told => return Ok(None),
            (None, None) if driver.is_none() => return Err(Error::usage("Must specify either driver or file")),
            (None, None) => return Err(Error::usage("A block device must be specified for \"file\"")),
        };
        let shown = given.and_then(|file| file.shown.clone());
        let layer = self.layer_at(device, name, format, &own, (purpose, true))?;
        Ok(Some(Layer { shown, ..layer }))
    }
}

/// Driver options as the user gave them.
pub type DriverOptions = Vec<(String, String)>;

/// What the user said of an image.
struct Apart {
    /// Of itself.
    own: DriverOptions,
    /// Of its backing file (`backing.KEY`).
    below: DriverOptions,
    /// `backing`: which one it is; empty for none.
    backing: Option<String>,
}

fn apart(options: &[(String, String)]) -> Apart {
    let (below, own): (Vec<_>, Vec<_>) = options.iter().cloned().partition(|(key, _)| key.starts_with(BACKING));
    let (backing, own): (Vec<_>, Vec<_>) = own.into_iter().partition(|(key, _)| key == ALONE);
    Apart {
        own,
        below: below.into_iter().map(|(key, value)| (key.replacen(BACKING, "", 1), value)).collect(),
        backing: backing.into_iter().next_back().map(|(_, name)| name),
    }
}

const BACKING: &str = "backing.";
const ALONE: &str = "backing";
/// Options of a backing file's own file begin so: see [`Given`].
const FILE: &str = "file.";

/// The option says that no backing file is wanted: it is no driver's.
fn is_alone(key: &str, value: &str) -> bool {
    key == ALONE && value.is_empty()
}

/// Makes the chain's first image show one of its snapshots.
pub fn select_snapshot(chain: &mut Chain<'_>, wanted: &SnapshotSelector) -> Result<()> {
    let Some(top) = chain.layers.first_mut() else { return Ok(()) };
    let name = top.format.name();
    top.image.select_snapshot(wanted).map_err(|error| match error.kind {
        Kind::Unsupported => Error::unsupported(format!(
            "Failed to load snapshot: Block format '{name}' used by device '' does not support temporarily loading \
             internal snapshots"
        )),
        _ => error,
    })
}

/// Emits what the user is to be warned of in the images that were opened.
pub fn emit_warnings(machine: &dyn Machine, chains: &[Chain<'_>]) -> Result<()> {
    let layers = chains.iter().flat_map(|chain| &chain.layers);
    warn(machine, layers.flat_map(|l| l.image.warnings()).collect())
}

/// The name that an image of that format has for its backing file, as one that QEMU would take so.
pub fn stored_name(format: &dyn Format, backing: &Backing) -> Vec<u8> {
    let is_file = has(format, Quirk::BackingIsFile) && !backing.name.starts_with(b"file:");
    if is_file { without_protocol(&backing.name) } else { backing.name.clone() }
}

/// Opens the backing file `stored` of the image called `above`; returns its device and its full name.
fn open_backing(
    machine: &dyn Machine,
    device: DeviceId,
    above: &[u8],
    stored: &[u8],
    write: bool,
) -> Result<(DeviceId, Vec<u8>)> {
    let name = without_file(&combine(above, stored));
    match machine.open_named(device, stored, Role::Backing, write) {
        Ok(device) => Ok((device, name)),
        Err(error) if error.kind == Kind::Loop => {
            let text = format!("Backing file '{}' creates an infinite loop.", display_name(&name));
            Err(Error::new(Kind::Loop, text))
        }
        // Another program's lock: the only thing that the host says so.
        Err(error) if error.kind == Kind::Io(EAGAIN) => Err(Error::new(error.kind, in_use(&error.message, &name))),
        Err(error) => Err(error.context(format!("Could not open '{}'", display_name(&name)))),
    }
}
