//! Changing an image in place: a run that is cut leaves clusters that nothing refers to at worst.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_crypto::qcow::Key;
use instar_image::levels::LevelWriter;
use instar_image::options::check_driver_options;
use instar_image::sealed::Placed;
use instar_image::write::{Encrypter, Packer, Piece, Target, Writer};
use instar_image::{EditContext, Editing, Editor, Error, Machine, OpenContext, Result, Step};

use crate::encrypted;
use crate::header::Header;
use crate::layout::ENTRY;
use crate::write::{packer, place_packed};

/// Bytes of a table that are cleared at once.
const CLEARED: u64 = 1 << 20;

/// Opens them to be changed.
pub struct QcowEditing;

impl Editing for QcowEditing {
    fn can_compress(&self) -> bool {
        true
    }

    fn edit<'a>(&self, cx: EditContext<'a, '_>) -> Result<Box<dyn Editor + 'a>> {
        check_driver_options("qcow", cx.options, &["encrypt."])?;
        let EditContext { machine, device, .. } = cx;
        let reading = OpenContext { opener: Some(machine), ..OpenContext::of_edit(&cx) };
        let header = Header::read(&reading)?;
        let key = encrypted::read(&reading, header.encrypted)?;
        if key.is_some() && cx.compressed {
            return Err(Error::unsupported("Compression and encryption not supported at the same time"));
        }
        let levels = header.levels(device);
        let tables = header.l1.offset.saturating_add(header.l1.count * ENTRY);
        let end = machine.stat(device)?.len.max(tables);
        Ok(Box::new(QcowEditor { machine, header, key, clusters: LevelWriter::new(machine, levels, end)? }))
    }
}

struct QcowEditor<'a> {
    machine: &'a dyn Machine,
    header: Header,
    key: Option<Key>,
    clusters: LevelWriter<'a>,
}

impl Editor for QcowEditor<'_> {
    fn virtual_size(&self) -> u64 {
        self.header.size
    }

    /// The first-level table is cleared from front to back: of a run that is cut some of the disk is emptied, which shows
    /// the same, for all of it was committed. Then the file ends behind it.
    fn empty(&self) -> Result<()> {
        let device = self.clusters.levels().device;
        let table = self.header.l1;
        let end = table.offset.saturating_add(table.count * ENTRY);
        let mut at = table.offset;
        while at < end {
            let data = vec![0; CLEARED.min(end - at) as usize];
            self.machine.submit(&[Step::Write { device, offset: at, data: &data }])?;
            at += data.len() as u64;
        }
        self.machine.submit(&[Step::Barrier { device }, Step::SetLength { device, len: end }, Step::Barrier { device }])
    }
}

impl Writer for QcowEditor<'_> {
    fn target(&self) -> Target {
        let unit = self.header.cluster();
        Target::Allocated { unit, zero_unit: unit, zeroed: false }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        match piece {
            Piece::Packed(bytes) => place_packed(&self.clusters, self.header.cluster_bits, at, bytes, steps),
            _ => encrypted::place(&self.clusters, self.key.as_ref(), at, piece, steps),
        }
    }

    fn encrypter(&self) -> Option<&dyn Encrypter> {
        self.key.as_ref().map(|key| key as &dyn Encrypter)
    }

    fn packer(&self) -> Option<Box<dyn Packer + '_>> {
        Some(packer())
    }

    fn is_full(&self) -> bool {
        self.clusters.is_full()
    }

    fn settle(&self) -> Result<()> {
        self.clusters.settle()
    }

    fn finish(&self) -> Result<()> {
        self.settle()
    }
}
