//! The VHD format, which QEMU calls `vpc` after Virtual PC: fixed, dynamic and differencing disks.
//!
//! A dynamic VHD begins with a copy of its footer. A fixed one has only the footer at its end, and `qemu-img`
//! takes it for raw unless told otherwise; so does instar.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod edit;
mod header;
pub mod layout;
mod map;
mod parent;
mod repair;
mod resize;
mod write;

use alloc::boxed::Box;

use instar_image::options::{OptionSpec, check_driver_options};
use instar_image::runs::RunMap;
use instar_image::{
    Ability, Backing, Changes, CheckContext, CheckReport, Creator, Description, DeviceId, Editor, Error, Extent,
    FileOffset, Format, Image, OpenContext, Probe, Purpose, Quirk, Repaired, Repairs, Resizing, Result, SafetyCheck,
};

use crate::check::Subject;
use crate::edit::VpcEditor;
use crate::header::{Dynamic, Footer, Kind};
use crate::layout::COOKIE;
use crate::map::{Blocks, Map};

/// The format.
pub struct Vpc;

impl Format for Vpc {
    fn name(&self) -> &'static str {
        "vpc"
    }

    fn extensions(&self) -> &'static [Ability] {
        &[Ability::Check, Ability::Repair, Ability::Resize, Ability::Rebase, Ability::Child]
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.head.starts_with(COOKIE) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        open(&cx).map(|image| Box::new(image) as Box<dyn Image>)
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        write::OPTIONS
    }

    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        write::SHOWN
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(&write::VpcCreator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // Of a fixed image the driver says that all of it has its place.
            Quirk::StoredZeroes,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::Checked("the parent is opened by the host's policy"),
            SafetyCheck::Checked("disk size, block size and table are bounded before they are used"),
            SafetyCheck::Checked("blocks lie inside the file"),
        ]
    }
}

fn open<'a>(cx: &OpenContext<'a, '_>) -> Result<VpcImage<'a>> {
    let damaged = cx.purpose.bears_damage();
    check_driver_options("vpc", cx.options, &["force_size_calc"])?;
    let footer = Footer::read(cx)?;
    let fixed = footer.kind == Kind::Fixed;
    // What is called dynamic at its end only has no table for releases that open it at all.
    let bare = !footer.at_start && cx.source.is_stock();
    let dynamic = if bare || (fixed && !footer.at_start) { None } else { Some(Dynamic::read(cx, &footer)?) };
    if let (Some(dynamic), false) = (&dynamic, damaged)
        && map::end_of_blocks(cx.source, cx.device, dynamic)? > header::file_end(cx.source, cx.device)?
    {
        return Err(Error::corrupt(
            "block-vpc: free_data_block_offset points after the end of file. The image has been truncated.",
        ));
    }
    let differencing = footer.kind == Kind::Differencing;
    let backing = match &dynamic {
        Some(dynamic) if differencing => Some(parent::backing(cx, dynamic)?),
        _ => None,
    };
    // Else what the table says has been looked at already.
    let end = if damaged { header::file_end(cx.source, cx.device)? } else { FileOffset::MAX };
    let map = match &dynamic {
        _ if fixed => {
            let len = cx.source.stat(cx.device)?.len;
            Map::Fixed { device: cx.device, runs: RunMap::new(cx.source, cx.device, len) }
        }
        Some(dynamic) => Map::Blocks(Box::new(Blocks::new(cx, dynamic, footer.size, differencing, end))),
        None => Map::Blocks(Box::new(Blocks::new(cx, &Dynamic::none(), footer.size, false, end))),
    };
    Ok(VpcImage { device: cx.device, purpose: cx.purpose, footer, dynamic, backing, map, editor: None })
}

/// An open image.
struct VpcImage<'a> {
    device: DeviceId,
    purpose: Purpose<'a>,
    footer: Footer,
    dynamic: Option<Dynamic>,
    backing: Option<Backing>,
    map: Map<'a>,
    editor: Option<VpcEditor<'a>>,
}

impl Image for VpcImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.footer.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        match &self.editor {
            Some(VpcEditor::Blocks(editor)) => editor.extent(at, max),
            Some(VpcEditor::Fixed(_)) => self.map.extent_now(at, max, self.footer.size),
            None => self.map.extent(at, max, self.footer.size),
        }
    }

    fn begin(&mut self, changes: &Changes<'_>) -> Option<Result<()>> {
        Some(VpcEditor::open(self, changes).map(|editor| self.editor = Some(editor)))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(VpcEditor::as_editor)
    }

    fn resizing(&self) -> Option<&dyn Resizing> {
        Some(self)
    }

    fn backing(&self) -> Option<Backing> {
        self.backing.clone()
    }

    fn describe(&self) -> Result<Description> {
        Ok(Description { cluster_size: self.cluster_size(), ..Description::default() })
    }

    fn repair(&mut self, what: Repairs, cx: CheckContext<'_>) -> Option<Result<Repaired>> {
        let subject = Subject { device: self.device, footer: &self.footer, dynamic: self.dynamic.as_ref() };
        Some(repair::repair(&subject, what, cx).map(Repaired::from))
    }

    fn check(&self, cx: CheckContext<'_>) -> Option<Result<CheckReport>> {
        let subject = Subject { device: self.device, footer: &self.footer, dynamic: self.dynamic.as_ref() };
        Some(check::check(&subject, cx))
    }

    fn cluster_size(&self) -> Option<u64> {
        self.dynamic.as_ref().filter(|_| self.footer.kind != Kind::Fixed).map(|d| d.block)
    }
}
