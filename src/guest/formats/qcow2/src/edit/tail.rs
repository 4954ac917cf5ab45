//! What lies behind the disk's end in its last cluster: nothing of it may show when the disk grows.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::reader::is_zero;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Writer};
use instar_image::{Compressed, Decoder, FileOffset, Result, Step};

use super::entries::Slot;
use super::{Qcow2Editor, State};
use crate::compressed::{ZlibClusterDecoder, ZstdClusterDecoder};
use crate::header::Compression;
use crate::layout::{OFLAG_COMPRESSED, OFLAG_COPIED, OFLAG_ZERO, host_of};

impl<'a> Qcow2Editor<'a> {
    /// Zeroes what lies behind the old end of a disk that is going to have `size` bytes.
    pub(super) fn clear_tail(&self, state: &mut State<'a>, size: u64) -> Result<()> {
        let (g, old) = (&self.geometry, self.header.size);
        let inside = old % g.cluster_size();
        if inside == 0 || self.external {
            return Ok(());
        }
        let slot = self.slot(state, old)?;
        let host = host_of(slot.entry);
        let compressed = slot.entry & OFLAG_COMPRESSED != 0;
        if !compressed && host != FileOffset::ZERO && slot.entry & OFLAG_COPIED != 0 {
            let (offset, len) = (host + inside, g.cluster_size() - inside);
            let zeroes = match self.encrypter() {
                Some(encrypter) => Placed::sealed_zeroes(encrypter, old, g.data, offset, len),
                None => Placed::Step(Step::Zero { device: g.data, offset, len, unmap: false }),
            };
            return self.submit_placed(Vec::from([zeroes]));
        }
        let zero = g.entry_bits == 3 && slot.entry & OFLAG_ZERO != 0;
        if !compressed && (host == FileOffset::ZERO || zero) {
            return Ok(());
        }
        // Snapshots have a part in it: it is written anew, but only if it must be.
        let start = old - inside;
        let mut bytes = if compressed { self.decompressed(slot)? } else { self.stored(start, host)? };
        if bytes.get(inside as usize..).is_none_or(is_zero) {
            return Ok(());
        }
        if let Some(behind) = bytes.get_mut(inside as usize..) {
            behind.fill(0);
        }
        let whole = g.entry_bits == 3 || compressed;
        let mut steps = Vec::new();
        let mut at = start;
        while at < size.min(start + g.cluster_size()) {
            let unit = if whole { g.cluster_size() } else { g.unit_size() };
            let len = unit.min(size - at);
            let held = whole || slot.bitmap & self.bits(at, len) != 0;
            if held && at + len > old {
                let from = (at - start) as usize;
                let piece = bytes.get(from..from + len as usize).unwrap_or_default();
                let piece = if at >= old { Piece::Zero(len) } else { Piece::Data(piece) };
                self.put_to(state, at, piece, size, &mut steps)?;
            }
            at += len;
        }
        self.submit_placed(steps)
    }

    /// The cluster at byte `at` of the disk, which is stored at `host`.
    fn stored(&self, at: u64, host: FileOffset) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.geometry.cluster_size() as usize];
        self.machine.read(self.geometry.data, host, &mut bytes)?;
        if let Some(key) = &self.key {
            key.decrypt(at, host, &mut bytes);
        }
        Ok(bytes)
    }

    fn decompressed(&self, slot: Slot) -> Result<Vec<u8>> {
        let (offset, len) = crate::entry::compressed_range(&self.geometry, slot.entry);
        let unit = self.geometry.cluster_size();
        let mut stored = vec![0; len as usize];
        self.machine.read(self.device, offset, &mut stored)?;
        let mut bytes = vec![0; unit as usize];
        let compressed = Compressed { device: self.device, offset, len, unit, skip: 0 };
        match self.header.compression {
            Compression::Zlib => ZlibClusterDecoder::default().decompress(&compressed, &stored, &mut bytes)?,
            Compression::Zstd => ZstdClusterDecoder::default().decompress(&compressed, &stored, &mut bytes)?,
        }
        Ok(bytes)
    }
}
