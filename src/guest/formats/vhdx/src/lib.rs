//! The VHDX format: dynamic, fixed and differencing disks with a log.
//!
//! [`header`] takes the newer of two headers, [`log`] reads what a crash left to be done, [`view`] is the file as it is
//! when that is done; [`regions`] and [`metadata`] are read from there, [`map`] turns ranges of the disk into places.
//! The parent of a differencing disk is opened by the host's policy, never here.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bat;
mod check;
mod edit;
mod error;
mod header;
pub mod layout;
mod log;
mod map;
mod metadata;
mod regions;
mod replay;
mod resize;
mod view;
mod write;

use alloc::boxed::Box;
use alloc::sync::Arc;

use instar_image::options::{OptionSpec, check_driver_options};
use instar_image::{
    Ability, Backing, Changes, CheckContext, CheckReport, Creator, Description, Editor, Extent, Format, Image, Machine,
    OpenContext, Probe, Purpose, Quirk, Repaired, Repairs, Resizing, Result, SafetyCheck, Version,
};

use crate::bat::{Geometry, verify};
use crate::edit::VhdxEditor;
use crate::error::invalid;
use crate::header::Header;
use crate::layout::FILE_SIGNATURE;
use crate::map::Map;
use crate::metadata::Metadata;
use crate::regions::Regions;
use crate::view::View;

/// The format.
pub struct Vhdx;

impl Format for Vhdx {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn extensions(&self) -> &'static [Ability] {
        &[Ability::Resize, Ability::Rebase, Ability::Child]
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.head.starts_with(FILE_SIGNATURE) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        let image = open(&cx)?;
        if !cx.purpose.bears_damage() {
            verify(&image.view, &image.geometry, &image.regions, &mut |text| Err(invalid(&cx).after(text)))?;
        }
        Ok(Box::new(image))
    }

    fn recover(&self, machine: &dyn Machine, cx: &OpenContext<'_, '_>, _lower: bool) -> Result<()> {
        replay::recover(machine, cx)
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        write::OPTIONS
    }

    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        write::SHOWN
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(&write::VhdxCreator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // The driver has no `block_status`.
            Quirk::NoBlockStatus,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::Checked("the parent is opened by the host's policy"),
            SafetyCheck::Checked("headers, log entries and region tables count only where their checksums are right"),
            SafetyCheck::Checked("tables, names and the log are bounded before they are read"),
            SafetyCheck::Checked("blocks lie inside the file and in no region"),
        ]
    }
}

fn open<'a>(cx: &OpenContext<'a, '_>) -> Result<VhdxImage<'a>> {
    check_driver_options("vhdx", cx.options, &[])?;
    let header = Header::read(cx)?;
    let log = log::read(cx, &header)?;
    let view = View { source: cx.source, device: cx.device, log: Arc::new(log) };
    let regions = Regions::read(cx, &view, &header)?;
    let metadata = Metadata::read(cx, &view, regions.metadata)?;
    let geometry = Geometry::new(&metadata, regions.bat);
    if geometry.entries_of_region() > regions.bat.len / 8 {
        return Err(invalid(cx));
    }
    // Else what the table says has been looked at already.
    let bounds = if cx.purpose.bears_damage() { Some((regions.clone(), view.end()?)) } else { None };
    let map = Map::new(view.clone(), geometry, metadata.sector, bounds);
    let (purpose, version) = (cx.purpose, cx.version);
    Ok(VhdxImage { view, header, purpose, version, regions, metadata, geometry, map, editor: None })
}

/// An open image.
struct VhdxImage<'a> {
    view: View<'a>,
    header: Header,
    purpose: Purpose<'a>,
    version: Version,
    regions: Regions,
    metadata: Metadata,
    geometry: Geometry,
    map: Map<'a>,
    editor: Option<VhdxEditor<'a>>,
}

impl<'a> VhdxImage<'a> {
    /// What it is changed through, if it may be.
    fn writable(&self) -> Result<&'a dyn Machine> {
        if self.view.log.dirty {
            return Err(edit::refuse("it was not closed: its log is replayed when something is to be written"));
        }
        self.purpose.machine()
    }
}

impl Image for VhdxImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.metadata.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        self.editor.as_ref().map_or_else(|| self.map.extent(at, max), |editor| editor.extent(at, max))
    }

    fn begin(&mut self, changes: &Changes<'_>) -> Option<Result<()>> {
        Some(VhdxEditor::open(self, changes).map(|editor| self.editor = Some(editor)))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(|editor| editor as &dyn Editor)
    }

    fn resizing(&self) -> Option<&dyn Resizing> {
        Some(self)
    }

    fn backing(&self) -> Option<Backing> {
        self.metadata.backing.clone()
    }

    fn describe(&self) -> Result<Description> {
        Ok(Description {
            cluster_size: Some(self.metadata.block),
            dirty: self.view.log.dirty,
            ..Description::default()
        })
    }

    fn check(&self, cx: CheckContext<'_>) -> Option<Result<CheckReport>> {
        Some(check::check(&self.view, &self.geometry, &self.regions, cx))
    }

    /// The log is what can be repaired: it is replayed, and that counts as one.
    fn repair(&mut self, _what: Repairs, cx: CheckContext<'_>) -> Option<Result<Repaired>> {
        let replayed = match replay::repair(cx.machine, self.view.device, &self.header, &self.view.log) {
            Ok(replayed) => replayed,
            Err(error) => return Some(Err(error)),
        };
        let checked = check::check(&self.view, &self.geometry, &self.regions, cx);
        Some(checked.map(|report| CheckReport { corruptions_fixed: u64::from(replayed), ..report }.into()))
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.metadata.block)
    }
}
