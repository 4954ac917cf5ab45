//! Changing an image in place: a run that is cut leaves clusters that nothing refers to at worst.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use instar_crypto::qcow::Key;
use instar_image::levels::LevelWriter;
use instar_image::sealed::Placed;
use instar_image::write::{Compressor, Encrypter, Piece, Target, Writer};
use instar_image::{Changes, Editor, Emptying, Error, Machine, Result, Spot, Step};

use crate::QcowImage;
use crate::encrypted;
use crate::header::Header;
use crate::layout::ENTRY;
use crate::write::{compressor, place_compressed};

/// Bytes of a table that are cleared at once.
const CLEARED: u64 = 1 << 20;

/// An image that is being changed.
pub struct QcowEditor<'a> {
    machine: &'a dyn Machine,
    header: Header,
    key: Option<Arc<Key>>,
    /// The clusters.
    pub clusters: LevelWriter<'a>,
}

impl<'a> QcowEditor<'a> {
    /// Reads what has to be known of the image.
    pub fn open(image: &QcowImage<'a>, changes: &Changes<'_>) -> Result<Self> {
        let (machine, device, header) = (image.purpose.machine()?, image.device, image.header.clone());
        if header.encrypted && changes.compressed {
            return Err(Error::unsupported("Compression and encryption not supported at the same time"));
        }
        if header.encrypted && image.key.is_none() {
            return Err(Error::corrupt("an encrypted image without its key"));
        }
        let tables = header.l1.offset.saturating_add(header.l1.count * ENTRY);
        let end = machine.stat(device)?.end().max(tables);
        let clusters = LevelWriter::new(machine, header.levels(device), end)?;
        Ok(Self { machine, header, key: image.key.clone(), clusters })
    }
}

impl Editor for QcowEditor<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        self.clusters.own(at, max)
    }

    fn emptying(&self) -> Option<&dyn Emptying> {
        Some(self)
    }
}

impl Emptying for QcowEditor<'_> {
    /// The first-level table is cleared from front to back: of a run that is cut some of the disk is emptied, which shows
    /// the same, for all of it was committed. Then the file ends behind it.
    fn empty(&self) -> Result<()> {
        let device = self.clusters.levels().device;
        let table = self.header.l1;
        let end = table.offset.saturating_add(table.count * ENTRY);
        let mut at = table.offset;
        while at < end {
            let len = CLEARED.min(end - at);
            // A damaged image may claim a table that is longer than the file: no blocks are written for that.
            self.machine.submit(&[Step::Zero { device, offset: at, len, unmap: true }])?;
            at += len;
        }
        self.machine.submit(&[
            Step::Barrier { device },
            Step::SetLength { device, len: end.get() },
            Step::Barrier { device },
        ])
    }
}

impl Writer for QcowEditor<'_> {
    fn target(&self) -> Target {
        let unit = self.header.cluster();
        Target::Allocated { unit, zero_unit: unit, zeroed: false }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        match piece {
            Piece::Compressed(bytes) => place_compressed(&self.clusters, self.header.cluster_bits, at, bytes, steps),
            _ => encrypted::place(&self.clusters, self.key.as_deref(), at, piece, steps),
        }
    }

    fn encrypter(&self) -> Option<&dyn Encrypter> {
        self.key.as_deref().map(|key| key as &dyn Encrypter)
    }

    fn compressor(&self) -> Option<Box<dyn Compressor + '_>> {
        Some(compressor())
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
