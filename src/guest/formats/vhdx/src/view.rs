//! The file as it is once its log has been replayed.

use alloc::sync::Arc;

use instar_image::table::Bytes;
use instar_image::{DeviceId, FileOffset, Result, Source};

use crate::log::{Log, PatchKind};

/// The file, as it is when its log is replayed.
#[derive(Clone)]
pub struct View<'a> {
    pub source: &'a dyn Source,
    pub device: DeviceId,
    pub log: Arc<Log>,
}

impl View<'_> {
    /// End of the file.
    pub fn end(&self) -> Result<FileOffset> {
        Ok(FileOffset::new(self.source.stat(self.device)?.len.max(self.log.file_len)))
    }

    /// Whether the log changes any of these bytes.
    pub fn is_patched(&self, offset: FileOffset, len: u64) -> bool {
        let end = offset.saturating_add(len);
        self.log.patches.iter().any(|p| p.at < end && offset < p.at.saturating_add(p.len))
    }
}

impl Bytes for View<'_> {
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> Result<()> {
        self.source.read(self.device, offset, buf)?;
        let end = offset.saturating_add(buf.len() as u64);
        for patch in &self.log.patches {
            let (from, to) = (patch.at.max(offset), patch.at.saturating_add(patch.len).min(end));
            if from >= to {
                continue;
            }
            let range = (from - offset) as usize..(to - offset) as usize;
            let Some(target) = buf.get_mut(range) else { continue };
            let sector = patch.kind.sector(self.source, self.device)?;
            match patch.kind {
                PatchKind::Zeroes => target.fill(0),
                PatchKind::Sector { .. } => {
                    let inside = (from - patch.at) as usize;
                    if let Some(new) = sector.get(inside..inside + target.len()) {
                        target.copy_from_slice(new);
                    }
                }
            }
        }
        Ok(())
    }
}
