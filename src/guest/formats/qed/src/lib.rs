//! The QED format.
//!
//! [`header`] parses the header once, into checked values; [`map`] says what the entries of its tables
//! mean; [`check`] finds clusters that are used twice or never.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod edit;
mod header;
pub mod layout;
mod map;
mod recover;
mod write;

use alloc::boxed::Box;

use instar_image::levels::LevelReader;
use instar_image::options::{OptionSpec, check_driver_options};
use instar_image::{
    Backing, Changes, CheckContext, CheckReport, Creator, Description, DeviceId, Editor, Extent, Format, Image,
    Machine, OpenContext, Probe, Purpose, Quirk, Repaired, Repairs, Resizing, Result, SafetyCheck,
};

use crate::edit::QedEditor;
use crate::header::Header;
use crate::layout::MAGIC;

/// The format.
pub struct Qed;

impl Format for Qed {
    fn name(&self) -> &'static str {
        "qed"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.head.starts_with(MAGIC) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        check_driver_options(self.name(), cx.options, &[])?;
        let header = Header::read(&cx)?;
        let clusters = LevelReader::new(cx.source, header.levels(cx.device, header.backing.is_some()));
        Ok(Box::new(QedImage { header, device: cx.device, purpose: cx.purpose, clusters, editor: None }))
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
        Some(&write::QedCreator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // All that an image says is whether its backing file is raw.
            Quirk::BackingFormats(&["raw"]),
            Quirk::Backs,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::Checked("a backing file is opened by the host's policy"),
            SafetyCheck::Checked("unknown features are refused"),
            SafetyCheck::Checked("tables are read in pieces, and their offsets lie in the file"),
        ]
    }
}

/// An open image.
struct QedImage<'a> {
    header: Header,
    device: DeviceId,
    purpose: Purpose<'a>,
    clusters: LevelReader<'a>,
    editor: Option<QedEditor<'a>>,
}

impl Image for QedImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.header.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let (header, device) = (&self.header, self.device);
        let entries = |end| map::Entries { header, device, end };
        match &self.editor {
            Some(editor) => editor.clusters.extent(&entries(editor.clusters.end()), at, max),
            None => self.clusters.extent(&entries(header.file_end), at, max),
        }
    }

    fn begin(&mut self, changes: &Changes<'_>) -> Option<Result<()>> {
        Some(QedEditor::open(self, changes).map(|editor| self.editor = Some(editor)))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(|editor| editor as &dyn Editor)
    }

    fn resizing(&self) -> Option<&dyn Resizing> {
        Some(self)
    }

    fn backing(&self) -> Option<Backing> {
        self.header.backing.clone()
    }

    fn describe(&self) -> Result<Description> {
        // The stock tool does not show that the image was not closed cleanly.
        Ok(Description { cluster_size: Some(self.header.cluster), ..Description::default() })
    }

    fn check(&self, cx: CheckContext<'_>) -> Option<Result<CheckReport>> {
        Some(check::run(&self.header, self.device, &cx))
    }

    /// What leads nowhere is no use whatever is asked for; leaks stay, as the format has no way to use them again.
    fn repair(&mut self, _what: Repairs, cx: CheckContext<'_>) -> Option<Result<Repaired>> {
        Some(recover::repair(&self.header, self.device, &cx).map(Repaired::from))
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.cluster)
    }
}
