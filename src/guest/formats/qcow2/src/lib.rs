//! The qcow2 format, versions 2 and 3.
//!
//! [`header`] and [`extensions`] parse the first cluster once, into checked values; [`map`] and [`entry`] turn
//! ranges of the virtual disk into places in the file; [`compressed`] decompresses. Files that the image names
//! are opened by the host's policy, never here. [`encrypted`] finds the key of an encrypted image.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod amend;
mod below;
mod bitmaps;
mod cache;
mod check;
mod cluster;
mod compressed;
mod compressor;
mod edit;
mod encrypted;
mod entry;
mod extensions;
mod flags;
mod header;
mod info;
pub mod layout;
mod map;
mod merged;
mod preallocated;
mod refcount;
mod repair;
mod snapshots;
mod window;
mod write;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::image::SnapshotSelector;
use instar_image::machine::not_opened;
use instar_image::names::combine;
use instar_image::options::OptionSpec;
use instar_image::options::check_driver_options;
use instar_image::reader::Reader;
use instar_image::table::Span;
use instar_image::{
    Amendment, Backing, Bitmaps, Changes, CheckContext, CheckReport, Creator, Decoder, Description, DeviceId, Editor,
    Error, Extent, FileOffset, Format, Image, Machine, OpenContext, Probe, Purpose, Quirk, Repaired, Repairs, Resizing,
    Result, Role, SafetyCheck, Source, Version, limits,
};

use crate::bitmaps::{Bitmap, Directory};
use crate::compressed::{ZlibClusterDecoder, ZstdClusterDecoder};
use crate::edit::Qcow2Editor;
use crate::encrypted::Encrypted;
use crate::entry::Geometry;
use crate::extensions::{Extensions, text};
use crate::header::{Compression, Encryption, Header};
use crate::layout::{AUTOCLEAR_DATA_FILE_RAW, MAGIC, SHOWN_MAX, field, incompatible};
use crate::map::Map;
use crate::window::Window;

const VERSION_MIN: u32 = 2;

/// Options of `--image-opts` that are known: those of the data file, and those that tune QEMU's own doing.
const DRIVER_OPTIONS: &[&str] = &[
    "data-file",
    "data-file.",
    "encrypt.",
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "overlap-check.template",
    "overlap-check.main-header",
    "overlap-check.active-l1",
    "overlap-check.active-l2",
    "overlap-check.refcount-table",
    "overlap-check.refcount-block",
    "overlap-check.snapshot-table",
    "overlap-check.inactive-l1",
    "overlap-check.inactive-l2",
    "overlap-check.bitmap-directory",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-clean-interval",
];

/// The option that says on which device the data file is that the user has named, and the one with its name.
const DATA_FILE: &str = "data-file";
const DATA_FILE_NAME: &str = "data-file.filename";

/// The format.
pub struct Qcow2;

impl Format for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    /// Versions after 3 are qcow2 too: they are refused when opened, not taken for raw.
    fn probe(&self, probe: &Probe<'_>) -> u32 {
        let version = Reader::new(probe.head).be32(field::VERSION);
        if probe.head.starts_with(&MAGIC) && version.is_ok_and(|v| v >= VERSION_MIN) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        Ok(Box::new(open(cx)?))
    }

    fn recover(&self, machine: &dyn Machine, cx: &OpenContext<'_, '_>, lower: bool) -> Result<()> {
        repair::recover(machine, cx, lower)
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        write::OPTIONS
    }

    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        write::SHOWN
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(&write::Qcow2Creator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // `keep_data_file` came with 11.1.
            Quirk::OptionSince("keep_data_file", Version::V11_1),
            Quirk::Amends(amend::OPTIONS),
            Quirk::Backs,
            Quirk::Compresses,
            Quirk::HoldsSnapshots,
            // Bitmaps came with version 3.
            Quirk::HoldsBitmapsUnless("compat", &["0.10", "v2"]),
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::Checked("a backing file is opened by the host's policy"),
            SafetyCheck::Checked("a data file is opened by the host's policy, and only where its bytes are wanted"),
            SafetyCheck::Checked("unknown incompatible features are refused"),
            SafetyCheck::Checked("tables and names are bounded before they are read"),
        ]
    }
}

/// Opens an image; to be checked, what the check tells of itself is no error here.
fn open<'a>(cx: OpenContext<'a, '_>) -> Result<Qcow2Image<'a>> {
    check_driver_options("qcow2", cx.options, DRIVER_OPTIONS)?;
    let mut window = Window::new(cx.source, cx.device);
    let header = if cx.purpose.bears_damage() {
        Header::parse_to_check(&mut window, cx.version)?
    } else {
        Header::parse(&mut window, cx.version)?
    };
    check_entry_size(&cx, &header)?;
    let extensions = Extensions::read(&mut window, &header)?;
    let data = data_device(&cx, &header, &extensions)?;
    let encryption = encrypted::read(&cx, &header, &extensions)?;
    let backing = backing(&mut window, &header, &extensions)?;
    let snapshots = match cx.purpose {
        Purpose::Check | Purpose::Repair(_) => Vec::new(),
        // Without them, the disk as it is now can still be read.
        Purpose::Salvage => {
            let sound = header.check_snapshots("Snapshot table");
            sound.and_then(|()| snapshots::read(&mut window, &header)).unwrap_or_default()
        }
        _ => snapshots::read(&mut window, &header)?,
    };
    let bitmaps = match extensions.bitmaps.map(|directory| bitmaps(&mut window, directory, &cx, &header)) {
        Some(Err(_)) if matches!(cx.purpose, Purpose::Salvage) => Vec::new(),
        found => found.transpose()?.unwrap_or_default(),
    };
    header.check_size()?;
    let geometry = Geometry {
        cluster_bits: header.cluster_bits,
        entry_bits: header.l2_entry_bits(),
        version: header.version,
        external: header.has(incompatible::DATA_FILE),
        encrypted: header.encryption != Encryption::None,
        data,
    };
    let shows_dirty = cx.version > Version::V5_2;
    let data_name = match said(&cx, DATA_FILE_NAME) {
        Some(name) => name.as_bytes().to_vec(),
        None => combine(cx.name, extensions.data_file.as_deref().unwrap_or_default()),
    };
    let l1 = Span { offset: header.l1_offset, count: u64::from(header.l1_size) };
    let map = Map::new(cx.source, cx.device, geometry, header.size, l1);
    let OpenContext { source, device, purpose, .. } = cx;
    Ok(Qcow2Image {
        source,
        purpose,
        header,
        device,
        geometry,
        extensions,
        encryption,
        backing,
        snapshots,
        bitmaps,
        shows_dirty,
        data_name,
        map,
        editor: None,
    })
}

fn bitmaps(
    window: &mut Window<'_>,
    directory: Directory,
    cx: &OpenContext<'_, '_>,
    header: &Header,
) -> Result<Vec<Bitmap>> {
    let bitmaps = bitmaps::read(window, directory, header)?;
    bitmaps::load(&bitmaps, cx.source, cx.device, header)?;
    Ok(bitmaps)
}

/// The device that the clusters are on. Where no data is wanted, a data file is not opened, as with
/// `qemu-img info`; the image's own device stands in for it.
fn data_device(cx: &OpenContext<'_, '_>, header: &Header, extensions: &Extensions) -> Result<DeviceId> {
    let external = header.has(incompatible::DATA_FILE);
    // Releases that open the data file for `info` too say this then too.
    let looked_at = cx.purpose.wants_data() || cx.version <= Version::V5_2;
    if !external && looked_at && header.autoclear & AUTOCLEAR_DATA_FILE_RAW != 0 {
        return Err(Error::malformed("data-file-raw requires a data file"));
    }
    let (true, Some(opener)) = (external, cx.opener.filter(|_| cx.purpose.wants_data())) else {
        if cx.purpose.wants_data() && said(cx, DATA_FILE).is_some() {
            return Err(Error::usage("'data-file' can only be set for images with an external data file"));
        }
        return Ok(cx.device);
    };
    if let Some(device) = said(cx, DATA_FILE) {
        // The user has named it, and the host has opened it.
        let number = device.parse().map_err(|_| Error::usage(format!("Cannot find device='{device}'")))?;
        return Ok(DeviceId(number));
    }
    let name =
        extensions.data_file.as_deref().ok_or_else(|| Error::malformed("'data-file' is required for this image"))?;
    if name.is_empty() {
        return Err(Error::malformed("The 'file' block driver requires a file name"));
    }
    let opened = opener.open_named(cx.device, name, Role::DataFile, cx.purpose.writes());
    opened.map_err(|e| not_opened(e, name))
}

/// Of what size the parts of tables are that QEMU keeps: here none are kept so, but nonsense is nonsense.
fn check_entry_size(cx: &OpenContext<'_, '_>, header: &Header) -> Result<()> {
    let Some(text) = said(cx, "l2-cache-entry-size") else { return Ok(()) };
    let (size, most) = (instar_image::values::size("l2-cache-entry-size", text)?, header.cluster_size());
    if size.is_power_of_two() && (512..=most).contains(&size) {
        return Ok(());
    }
    Err(Error::usage(format!("L2 cache entry size must be a power of two between 512 and the cluster size ({most})")))
}

/// What the last driver option of that name says.
fn said<'n>(cx: &OpenContext<'_, 'n>, name: &str) -> Option<&'n str> {
    cx.options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn backing(window: &mut Window<'_>, header: &Header, extensions: &Extensions) -> Result<Option<Backing>> {
    let (offset, len) = header.backing;
    if offset == FileOffset::ZERO {
        return Ok(None);
    }
    let room = FileOffset::new(header.cluster_size()).saturating_since(offset).min(limits::BACKING_NAME_MAX as u64);
    if u64::from(len) > room {
        return Err(Error::malformed("Backing file name too long"));
    }
    let name = text(window.bytes(offset, len as usize)?);
    if name.is_empty() {
        return Ok(None);
    }
    let format = extensions.backing_format.as_deref().filter(|f| !f.is_empty());
    Ok(Some(Backing { name, format: format.map(|f| String::from_utf8_lossy(f).into_owned()) }))
}

/// An open image.
struct Qcow2Image<'a> {
    source: &'a dyn Source,
    purpose: Purpose<'a>,
    header: Header,
    device: DeviceId,
    geometry: Geometry,
    extensions: Extensions,
    encryption: Encrypted,
    backing: Option<Backing>,
    snapshots: Vec<snapshots::Entry>,
    bitmaps: Vec<Bitmap>,
    /// Old releases do not tell that an image was not closed.
    shows_dirty: bool,
    /// Full name of the data file.
    data_name: Vec<u8>,
    map: Map<'a>,
    editor: Option<Qcow2Editor<'a>>,
}

impl Image for Qcow2Image<'_> {
    fn virtual_size(&self) -> u64 {
        self.header.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        self.editor.as_ref().map_or_else(|| self.map.extent(at, max), |editor| editor.extent(at, max))
    }

    fn begin(&mut self, changes: &Changes<'_>) -> Option<Result<()>> {
        Some(Qcow2Editor::open(self, changes).map(|editor| self.editor = Some(editor)))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(|editor| editor as &dyn Editor)
    }

    fn resizing(&self) -> Option<&dyn Resizing> {
        Some(self)
    }

    fn amend(&mut self, what: &Amendment<'_>) -> Option<Result<()>> {
        Some(amend::run(self, what))
    }

    fn backing(&self) -> Option<Backing> {
        self.backing.clone()
    }

    fn describe(&self) -> Result<Description> {
        for (what, count) in [("snapshots", self.snapshots.len()), ("bitmaps", self.bitmaps.len())] {
            if count > SHOWN_MAX {
                return Err(Error::limit(format!("the image has {count} {what}; instar shows at most {SHOWN_MAX}")));
            }
        }
        Ok(Description {
            cluster_size: Some(self.header.cluster_size()),
            encrypted: self.header.encryption != Encryption::None,
            dirty: self.shows_dirty && self.header.has(incompatible::DIRTY),
            snapshots: self.snapshots.iter().map(|s| s.shown.clone()).collect(),
            specific: Some(info::specific(self)),
            ..Description::default()
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.extensions.warning.iter().map(|w| String::from(*w)).collect()
    }

    fn decoder(&self) -> Option<Box<dyn Decoder + '_>> {
        let plain: Box<dyn Decoder> = match self.header.compression {
            Compression::Zlib => Box::new(ZlibClusterDecoder::default()),
            Compression::Zstd => Box::new(ZstdClusterDecoder::default()),
        };
        Some(self.encryption.decoder(plain))
    }

    fn select_snapshot(&mut self, wanted: &SnapshotSelector) -> Result<()> {
        let (l1, header) = snapshots::select(&self.snapshots, wanted, &self.header)?;
        self.map.set_l1(l1, header.size);
        self.header = header;
        Ok(())
    }

    fn check(&self, cx: CheckContext<'_>) -> Option<Result<CheckReport>> {
        Some(check::run(self, cx))
    }

    fn repair(&mut self, what: Repairs, cx: CheckContext<'_>) -> Option<Result<Repaired>> {
        Some(repair::run(self, what, cx))
    }

    fn reserved(&self, at: u64) -> Result<Option<(DeviceId, FileOffset)>> {
        Ok(self.map.reserved(at)?.map(|offset| (self.geometry.data, offset)))
    }

    fn is_preallocated(&self) -> Result<bool> {
        preallocated::looks_so(self.source, self.device, &self.header)
    }

    fn data_files(&self) -> Vec<(DeviceId, Vec<u8>)> {
        let has_one = self.geometry.data != self.device;
        has_one.then(|| (self.geometry.data, self.data_name.clone())).into_iter().collect()
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        (self.header.version > 2).then_some(self as &dyn Bitmaps)
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.cluster_size())
    }
}
