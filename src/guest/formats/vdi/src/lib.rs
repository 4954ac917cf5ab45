//! The VDI format (VirtualBox), version 1.1.
//!
//! [`header`] parses the header once, into checked values; [`check`] finds blocks that are used twice. What differs from another image (undo, differencing) is
//! refused, as the stock tool does: nothing in the file says where the other one is.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod edit;
mod header;
pub mod layout;
mod repair;
mod resize;
mod write;

use alloc::boxed::Box;

use instar_image::blocks::BlockReader;
use instar_image::options::{OptionSpec, check_driver_options};
use instar_image::reader::Reader;
use instar_image::{
    Ability, Changes, CheckContext, CheckReport, Creator, Description, DeviceId, Editor, Extent, Format, Image,
    Machine, OpenContext, Probe, Purpose, Quirk, Repaired, Repairs, Resizing, Result, SafetyCheck,
};

use crate::edit::VdiEditor;
use crate::header::Header;
use crate::layout::{BLOCK, SIGNATURE, SIGNATURE_AT};

/// The format.
pub struct Vdi;

impl Format for Vdi {
    fn name(&self) -> &'static str {
        "vdi"
    }

    fn extensions(&self) -> &'static [Ability] {
        &[Ability::Resize, Ability::Repair]
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if Reader::new(probe.head).le32(SIGNATURE_AT).is_ok_and(|s| s == SIGNATURE) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        check_driver_options(self.name(), cx.options, &[])?;
        let header = Header::read(&cx)?;
        let blocks = BlockReader::new(cx.source, header.blocks(cx.device));
        Ok(Box::new(VdiImage { header, device: cx.device, purpose: cx.purpose, blocks, editor: None }))
    }

    fn recover(&self, machine: &dyn Machine, cx: &OpenContext<'_, '_>, _lower: bool) -> Result<()> {
        edit::recover(machine, cx)
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        write::OPTIONS
    }

    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        write::SHOWN
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(&write::VdiCreator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // The driver looks at one block at a time.
            Quirk::StatusByCluster,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::Checked("images that differ from another one are refused: no other file is opened"),
            SafetyCheck::Checked("the block map is bounded and read in pieces"),
        ]
    }
}

/// An open image.
struct VdiImage<'a> {
    header: Header,
    device: DeviceId,
    purpose: Purpose<'a>,
    blocks: BlockReader<'a>,
    editor: Option<VdiEditor<'a>>,
}

impl Image for VdiImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.header.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        self.editor.as_ref().map_or_else(|| self.blocks.extent(at, max), |editor| editor.blocks.extent(at, max))
    }

    fn begin(&mut self, changes: &Changes<'_>) -> Option<Result<()>> {
        Some(VdiEditor::open(self, changes).map(|editor| self.editor = Some(editor)))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(|editor| editor as &dyn Editor)
    }

    fn resizing(&self) -> Option<&dyn Resizing> {
        Some(self)
    }

    fn repair(&mut self, what: Repairs, cx: CheckContext<'_>) -> Option<Result<Repaired>> {
        Some(repair::repair(&self.header, self.device, what, cx).map(Repaired::from))
    }

    fn is_preallocated(&self) -> Result<bool> {
        Ok(self.header.preallocated)
    }

    fn describe(&self) -> Result<Description> {
        Ok(Description { cluster_size: Some(BLOCK), ..Description::default() })
    }

    fn check(&self, cx: CheckContext<'_>) -> Option<Result<CheckReport>> {
        Some(check::run(&self.header, self.device, cx))
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(BLOCK)
    }
}
