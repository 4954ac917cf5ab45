//! The VMDK format (VMware).
//!
//! [`layout`] has the binary headers, [`descriptor`] the text; [`extent`] turns ranges of a part of the disk into places
//! of its file; [`decompress`] decompresses grains; [`check`] looks whether they lie in their files; [`edit`] and [`resize`]
//! change an image in place, [`text`] its descriptor; [`write`] makes new ones; both put bytes into [`regions`].
//!
//! A file is vmdk if it begins with the magic of a sparse extent or is a text descriptor. The seSparse extents of
//! newer ESX are no format of their own: `qemu-img` reaches them through their descriptor only.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod decompress;
mod descriptor;
mod edit;
mod extent;
mod layout;
mod probe;
mod regions;
mod resize;
mod tables;
mod text;
mod write;

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::machine::{alone, display_name, not_opened};
use instar_image::names::{beside, without_protocol};
use instar_image::options::{OptionSpec, check_driver_options};
use instar_image::{
    Ability, Backing, Changes, CheckContext, CheckReport, Creator, Decoder, Description, DeviceId, Editor, Error,
    Extent, Format, Identity, Image, OpenContext, Probe, Purpose, Quirk, Resizing, Result, Role, SafetyCheck, Source,
    Value, Version,
};
use spin::Mutex;

use crate::decompress::GrainDecoder;
use crate::descriptor::{Descriptor, ExtentKind};
use crate::edit::VmdkEditor;
use crate::extent::{Content, Part};
use crate::layout::{MAGIC_SPARSE, SECTOR};
use crate::tables::Tables;
use crate::text::Text;

/// The format.
pub struct Vmdk;

impl Format for Vmdk {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn extensions(&self) -> &'static [Ability] {
        &[Ability::Resize, Ability::Rebase]
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe::is_vmdk(probe.head) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        Ok(Box::new(VmdkImage::open(&cx)?))
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        write::OPTIONS
    }

    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        write::SHOWN
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(&write::VmdkCreator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // The descriptor says little of the disk: its extents do, in files of their own.
            Quirk::SeveralFiles,
            Quirk::Backs,
            // Those that are made as `streamOptimized`.
            Quirk::Compresses,
            // `parentFileNameHint` is a path, whatever stands in it.
            Quirk::BackingIsFile,
            // `toolsversion` came with 7.2.
            Quirk::OptionSince("toolsversion", Version::V7_2),
            // The driver gives zeroed grains and flat extents a place in the file.
            Quirk::StoredZeroes,
            // It looks at one grain at a time.
            Quirk::StatusByCluster,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::Checked("the parent and the extents are opened by the host's policy"),
            SafetyCheck::Checked("the descriptor, the number of extents and the tables are bounded"),
            SafetyCheck::Checked("a compressed grain is bounded before it is read"),
        ]
    }
}

/// One extent, as `info` shows it.
struct Named {
    part: Part,
    /// The name that the descriptor has for it; empty: the image's own file.
    name: Vec<u8>,
    kind: &'static str,
    /// It is not to be written.
    read_only: bool,
}

/// An open image.
struct VmdkImage<'a> {
    source: &'a dyn Source,
    device: DeviceId,
    purpose: Purpose<'a>,
    /// The image's own name.
    name: Vec<u8>,
    size: u64,
    extents: Vec<Named>,
    cid: u32,
    parent_cid: u32,
    create_type: &'static str,
    parent: Option<Vec<u8>>,
    /// It is opened in spite of damage.
    damaged: bool,
    /// The tables of the extent that was asked for last, and its number.
    tables: Mutex<(usize, Tables<'a>)>,
    editor: Option<VmdkEditor<'a>>,
}

impl<'a> VmdkImage<'a> {
    fn open(cx: &OpenContext<'a, '_>) -> Result<Self> {
        let damaged = matches!(cx.purpose, Purpose::Salvage);
        check_driver_options("vmdk", cx.options, &[])?;
        let (source, device) = (cx.source, cx.device);
        let Text { head, embedded, bytes: text, .. } = Text::read(source, device)?;
        let descriptor = Descriptor::new(&text);
        let (create_type, mut extents);
        if embedded {
            let (part, compressed) = if head.starts_with(MAGIC_SPARSE) {
                let (part, header) = Part::sparse(source, device, cx.name, &head)?;
                (part, Some(header.compressed))
            } else {
                (Part::cowd(device, &head)?, None)
            };
            create_type = match compressed {
                Some(true) => "streamOptimized",
                Some(false) => "monolithicSparse",
                None => "vmfsSparse",
            };
            extents = vec![Named { part, name: Vec::new(), kind: "", read_only: false }];
        } else {
            create_type = descriptor.create_type()?;
            extents = open_extents(cx, &descriptor)?;
        }
        if cx.purpose.writes() && extents.iter().any(|extent| extent.part.is_se_sparse()) {
            return Err(Error::unsupported("No write support for seSparse images available"));
        }
        let mut size = 0u64;
        for extent in &mut extents {
            extent.part.start = size;
            size = size.checked_add(extent.part.len).ok_or_else(|| Error::malformed("File too large"))?;
        }
        let (Some(cid), Some(parent_cid)) = (descriptor.cid(), descriptor.parent_cid()) else {
            let name = display_name(cx.name);
            return Err(Error::malformed(format!("Could not open '{name}': Invalid argument")));
        };
        Ok(Self {
            source,
            device,
            purpose: cx.purpose,
            name: cx.name.to_vec(),
            size,
            cid,
            parent_cid,
            create_type,
            parent: descriptor.parent().filter(|name| !name.is_empty()),
            tables: Mutex::new((usize::MAX, Tables::new(source, device, 0, damaged))),
            extents,
            damaged,
            editor: None,
        })
    }

    /// The number of the extent that holds byte `at`.
    fn index(&self, at: u64) -> usize {
        self.extents.partition_point(|extent| extent.part.start.saturating_add(extent.part.len) <= at)
    }

    /// The bytes there are not in grains.
    fn is_flat(&self, at: u64) -> bool {
        self.extents.get(self.index(at)).is_some_and(|extent| matches!(extent.part.content, Content::Flat(_)))
    }
}

fn open_extents(cx: &OpenContext<'_, '_>, descriptor: &Descriptor<'_>) -> Result<Vec<Named>> {
    let mut extents = Vec::new();
    for line in descriptor.extents()? {
        let len = line.sectors.saturating_mul(SECTOR);
        let (kind, read_only) = (ExtentKind::name(line.kind), line.read_only);
        if line.kind == ExtentKind::Zero {
            extents.push(Named { part: Part::of_zeroes(cx.device, len), name: line.name, kind, read_only });
            continue;
        }
        let opener = cx.opener.ok_or_else(|| Error::unsupported("the image's extents cannot be opened here"))?;
        let device = opener
            .open_named(cx.device, &without_protocol(&line.name), Role::Extent, cx.purpose.writes() && !read_only)
            .map_err(|e| not_opened(e, &beside(cx.name, &line.name)))?;
        if !matches!(line.kind, ExtentKind::Flat(..)) {
            alone(cx.source, device, &beside(cx.name, &line.name))?;
        }
        let part = Part::open(cx.source, device, &line.name, line.kind, len)?;
        extents.push(Named { part, name: line.name, kind, read_only });
    }
    Ok(extents)
}

impl Image for VmdkImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        if let Some(editor) = &self.editor {
            return editor.regions.extent(at, max);
        }
        let index = self.index(at);
        let part = self.extents.get(index).ok_or_else(|| Error::usage("read past the end of the disk"))?.part;
        let (held, tables) = &mut *self.tables.lock();
        if *held != index {
            *tables = Tables::new(self.source, part.device, self.source.stat(part.device)?.len, self.damaged);
            *held = index;
        }
        let inside = at - part.start;
        let extent = tables.extent(&part, inside, max).map_err(|e| match part.content {
            // What is wrong with a table is told grain by grain.
            Content::Grains(grains) => e.losing(grains.grain - inside % grains.grain),
            Content::Flat(_) | Content::Zero => e,
        })?;
        Ok(Extent { at, ..extent })
    }

    fn begin(&mut self, changes: &Changes<'_>) -> Option<Result<()>> {
        Some(VmdkEditor::open(self, changes).map(|editor| self.editor = Some(editor)))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(|editor| editor as &dyn Editor)
    }

    fn resizing(&self) -> Option<&dyn Resizing> {
        Some(self)
    }

    fn backing(&self) -> Option<Backing> {
        self.parent.clone().map(|name| Backing { name, format: Some("vmdk".into()) })
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity { own: self.cid, backing: self.parent_cid })
    }

    fn describe(&self) -> Result<Description> {
        let mut list = Vec::new();
        for extent in &self.extents {
            let mut shown = Value::map();
            let own = if extent.name.is_empty() { self.name.clone() } else { beside(&self.name, &extent.name) };
            if let Content::Grains(grains) = extent.part.content {
                if grains.compressed.is_some() {
                    shown.set("compressed", true);
                }
                shown.set("virtual-size", extent.part.len).set("filename", own).set("cluster-size", grains.grain);
            } else {
                shown.set("virtual-size", extent.part.len).set("filename", own);
            }
            shown.set("format", extent.kind);
            list.push(shown);
        }
        let mut specific = Value::map();
        specific
            .set("cid", u64::from(self.cid))
            .set("parent-cid", u64::from(self.parent_cid))
            .set("create-type", self.create_type)
            .set("extents", list);
        let named = self.extents.iter().enumerate().filter(|(_, extent)| !extent.name.is_empty());
        let children = named.map(|(i, extent)| (format!("extents.{i}"), extent.part.device)).rev().collect();
        Ok(Description {
            cluster_size: self.cluster_size(),
            specific: Some(specific),
            children,
            ..Description::default()
        })
    }

    fn decoder(&self) -> Option<Box<dyn Decoder + '_>> {
        let markers = self.extents.iter().find_map(|extent| match extent.part.content {
            Content::Grains(grains) => grains.compressed,
            Content::Flat(_) | Content::Zero => None,
        });
        markers.map(|markers| Box::new(GrainDecoder::new(markers)) as Box<dyn Decoder>)
    }

    fn data_files(&self) -> Vec<(DeviceId, Vec<u8>)> {
        let named = self.extents.iter().filter(|extent| !extent.name.is_empty());
        named.map(|extent| (extent.part.device, beside(&self.name, &extent.name))).collect()
    }

    fn check(&self, cx: CheckContext<'_>) -> Option<Result<CheckReport>> {
        Some(check::run(self, cx))
    }

    /// Of the first extent in grains.
    fn cluster_size(&self) -> Option<u64> {
        self.extents.iter().find_map(|extent| match extent.part.content {
            Content::Grains(grains) => Some(grains.grain),
            Content::Flat(_) | Content::Zero => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Vmdk.probe(&Probe { head, len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn sparse_extents() {
        assert_eq!(score(b"KDMV\x01\0\0\0"), 100);
        assert_eq!(score(b"COWD"), 100);
        assert_eq!(score(&0xcafe_babe_u64.to_le_bytes()), 0);
    }

    #[test]
    fn text_descriptors() {
        for yes in ["version=1\n", "# Disk\nversion=3\n", "# x\n  \nversion=2\n", " \r\nversion=2\r\n"] {
            assert_eq!(score(yes.as_bytes()), 100, "{yes:?}");
        }
        for no in ["version=4\n", "\nversion=2\n", "# x\n  version=2\n", "\r\nversion=2\n", "# version=1\n", "#", " "] {
            assert_eq!(score(no.as_bytes()), 0, "{no:?}");
        }
    }

    #[test]
    fn only_the_first_512_bytes_count() {
        let text = |comment: usize| [&b"#".repeat(comment)[..], b"\nversion=1\n"].concat();
        assert_eq!(score(&text(501)), 100);
        assert_eq!(score(&text(502)), 0);
    }
}
