//! The first qcow format.
//!
//! [`header`] parses the header once, into checked values; [`map`] turns ranges of the virtual disk into places in
//! the file through two levels of tables; [`compressed`] decompresses, [`encrypted`] decrypts and encrypts.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod compressed;
mod edit;
mod encrypted;
mod header;
pub mod layout;
mod map;
mod write;

use alloc::boxed::Box;
use alloc::sync::Arc;

use instar_crypto::qcow::Key;
use instar_image::levels::LevelReader;
use instar_image::options::{OptionSpec, check_driver_options};
use instar_image::{
    Backing, Changes, Creator, Decoder, Description, DeviceId, Editor, Extent, Format, Image, OpenContext, Probe,
    Purpose, Quirk, Result, SafetyCheck,
};

use crate::compressed::QcowDecoder;
use crate::edit::QcowEditor;
use crate::header::Header;
use crate::layout::MAGIC_1;

/// The format.
pub struct Qcow;

impl Format for Qcow {
    fn name(&self) -> &'static str {
        "qcow"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        if probe.head.starts_with(MAGIC_1) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        check_driver_options(self.name(), cx.options, &["encrypt."])?;
        let header = Header::read(&cx)?;
        let key = encrypted::read(&cx, header.encrypted)?;
        let clusters = LevelReader::new(cx.source, header.levels(cx.device));
        let (device, purpose) = (cx.device, cx.purpose);
        Ok(Box::new(QcowImage { header, key: key.map(Arc::new), device, purpose, clusters, editor: None }))
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        write::OPTIONS
    }

    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        write::SHOWN
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(&write::QcowCreator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // The driver looks at one cluster at a time.
            Quirk::StatusByCluster,
            Quirk::Backs,
            Quirk::Compresses,
            // Its `create` checks the name itself, before QAPI could.
            Quirk::OwnWordsForBackingFormat,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::Checked("a backing file is opened by the host's policy"),
            SafetyCheck::Checked("tables are read in pieces; names are bounded before they are read"),
        ]
    }
}

/// An open image.
struct QcowImage<'a> {
    header: Header,
    /// Absent too where no data is wanted.
    key: Option<Arc<Key>>,
    device: DeviceId,
    purpose: Purpose<'a>,
    clusters: LevelReader<'a>,
    editor: Option<QcowEditor<'a>>,
}

impl Image for QcowImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.header.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let entries = map::Entries { header: &self.header, device: self.device };
        match &self.editor {
            Some(editor) => editor.clusters.extent(&entries, at, max),
            None => self.clusters.extent(&entries, at, max),
        }
    }

    fn begin(&mut self, changes: &Changes<'_>) -> Option<Result<()>> {
        Some(QcowEditor::open(self, changes).map(|editor| self.editor = Some(editor)))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(|editor| editor as &dyn Editor)
    }

    fn backing(&self) -> Option<Backing> {
        self.header.backing.clone()
    }

    fn describe(&self) -> Result<Description> {
        Ok(Description {
            cluster_size: Some(self.header.cluster()),
            encrypted: self.header.encrypted,
            ..Description::default()
        })
    }

    fn decoder(&self) -> Option<Box<dyn Decoder + '_>> {
        Some(Key::decoder(self.key.as_deref(), Box::<QcowDecoder>::default()))
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.cluster())
    }
}
