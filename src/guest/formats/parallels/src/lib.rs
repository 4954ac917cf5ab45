//! The Parallels format (expandable images).
//!
//! [`header`] parses the header once, into checked values; [`check`] finds clusters outside of the file and clusters that are used twice.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod edit;
mod extension;
mod header;
pub mod layout;
mod recover;
mod repair;
mod resize;
mod write;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::bitmap::RunSink;
use instar_image::blocks::BlockReader;
use instar_image::options::{OptionSpec, check_driver_options};
use instar_image::reader::Reader;
use instar_image::{
    Ability, Bitmaps, Changes, CheckContext, CheckReport, Creator, DeviceId, DirtyBitmap, Editor, Extent, FileOffset,
    Format, Image, Machine, OpenContext, Probe, Purpose, Quirk, Repaired, Repairs, Resizing, Result, SafetyCheck,
};

use crate::edit::ParallelsEditor;
use crate::header::Header;
use crate::layout::{MAGIC_CLUSTERS, MAGIC_SECTORS, VERSION, field};

/// The options of `--image-opts` that tune QEMU's own doing.
const DRIVER_OPTIONS: &[&str] = &["prealloc-size", "prealloc-mode"];

/// The format.
pub struct Parallels;

impl Format for Parallels {
    fn name(&self) -> &'static str {
        "parallels"
    }

    fn extensions(&self) -> &'static [Ability] {
        &[Ability::Resize]
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        let known = probe.head.starts_with(MAGIC_SECTORS) || probe.head.starts_with(MAGIC_CLUSTERS);
        let version = Reader::new(probe.head).le32(field::VERSION);
        if known && version.is_ok_and(|v| v == VERSION) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        check_driver_options(self.name(), cx.options, DRIVER_OPTIONS)?;
        let header = Header::read(&cx)?;
        if !cx.purpose.writes() {
            extension::check(&cx, &header)?;
        }
        let can_have_bitmaps = cx.version > instar_image::Version::V7_2;
        Ok(Box::new(ParallelsImage {
            blocks: BlockReader::new(cx.source, header.blocks(cx.device)),
            header,
            device: cx.device,
            purpose: cx.purpose,
            can_have_bitmaps,
            editor: None,
        }))
    }

    fn recover(&self, machine: &dyn Machine, cx: &OpenContext<'_, '_>, _lower: bool) -> Result<()> {
        recover::recover(machine, cx)
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        write::OPTIONS
    }

    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        write::SHOWN
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(&write::ParallelsCreator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // The driver has no `get_info`.
            Quirk::NoDriverInfo,
            // QEMU's driver says that it has backing files, though nothing makes such images.
            Quirk::BackingOnlyByOption,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::NoneNeeded("it names no other file"),
            SafetyCheck::Checked("the map is bounded and read in pieces"),
        ]
    }
}

/// An open image.
struct ParallelsImage<'a> {
    header: Header,
    device: DeviceId,
    purpose: Purpose<'a>,
    blocks: BlockReader<'a>,
    editor: Option<ParallelsEditor<'a>>,
    /// The stock tool's driver knows bitmaps.
    can_have_bitmaps: bool,
}

/// As far as the stock tool counts them when it measures: not at all.
impl Bitmaps for ParallelsImage<'_> {
    fn list(&self) -> Vec<DirtyBitmap> {
        Vec::new()
    }

    fn runs(&self, _index: usize, _sink: RunSink<'_>) -> Result<()> {
        Ok(())
    }
}

impl Image for ParallelsImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.header.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        self.editor.as_ref().map_or_else(|| self.blocks.extent(at, max), |editor| editor.blocks.extent(at, max))
    }

    fn begin(&mut self, changes: &Changes<'_>) -> Option<Result<()>> {
        Some(ParallelsEditor::open(self, changes).map(|editor| self.editor = Some(editor)))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(|editor| editor as &dyn Editor)
    }

    fn warnings(&self) -> Vec<String> {
        let ignored = self.purpose.writes() && self.header.extension != FileOffset::ZERO;
        Vec::from_iter(ignored.then(|| String::from("Format Extension ignored in RW mode")))
    }

    fn resizing(&self) -> Option<&dyn Resizing> {
        Some(self)
    }

    fn check(&self, cx: CheckContext<'_>) -> Option<Result<CheckReport>> {
        Some(check::run(&self.header, self.device, cx))
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        self.can_have_bitmaps.then_some(self as &dyn Bitmaps)
    }

    fn repair(&mut self, what: Repairs, cx: CheckContext<'_>) -> Option<Result<Repaired>> {
        Some(repair::repair(&self.header, self.device, what, cx).map(Repaired::from))
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.cluster)
    }
}
