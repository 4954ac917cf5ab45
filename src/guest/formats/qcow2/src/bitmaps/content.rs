//! What the bitmaps of an image say.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::bitmap::RunSink;
use instar_image::{Bitmaps, DirtyBitmap, Error, FileOffset, Result};

use super::{ALL_ONES, AT_ONCE, cluster};
use crate::Qcow2Image;
use crate::window::numbers;

impl Bitmaps for Qcow2Image<'_> {
    fn list(&self) -> Vec<DirtyBitmap> {
        self.bitmaps.iter().map(super::Bitmap::shown).collect()
    }

    fn runs(&self, index: usize, sink: RunSink<'_>) -> Result<()> {
        let bitmap = self.bitmaps.get(index).ok_or_else(|| Error::usage("no such bitmap"))?;
        let cluster_size = self.header.cluster_size();
        // Bits that one cluster holds.
        let each = cluster_size.saturating_mul(8);
        let mut ones = Ones { row: (0, 0), shift: u32::from(bitmap.granularity_bits), end: self.header.size, sink };
        let (mut bits, mut at) = (Bits::default(), 0u64);
        let (offset, entries) = bitmap.table;
        numbers(self.source, self.device, offset, entries, &mut |_, table| {
            for entry in table {
                let place = cluster(*entry, cluster_size).ok_or_else(|| {
                    Error::malformed(format!(
                        "bitmap '{}': its table is not valid",
                        String::from_utf8_lossy(&bitmap.name)
                    ))
                })?;
                match (place, *entry & ALL_ONES) {
                    (FileOffset::ZERO, 0) => {}
                    (FileOffset::ZERO, _) => {
                        self.read_bits(&mut bits, &mut ones)?;
                        ones.push(at, at.saturating_add(each))?;
                    }
                    (place, _) => {
                        if !bits.goes_on(place, at, cluster_size) {
                            self.read_bits(&mut bits, &mut ones)?;
                            (bits.place, bits.at) = (place, at);
                        }
                        bits.len += cluster_size;
                    }
                }
                at = at.saturating_add(each);
            }
            Ok(())
        })?;
        self.read_bits(&mut bits, &mut ones)?;
        ones.hand_on()
    }
}

impl Qcow2Image<'_> {
    fn read_bits(&self, bits: &mut Bits, ones: &mut Ones<'_>) -> Result<()> {
        if bits.len == 0 {
            return Ok(());
        }
        bits.bytes.resize(core::mem::take(&mut bits.len) as usize, 0);
        self.source.read(self.device, bits.place, &mut bits.bytes)?;
        ones.take(bits.at, &bits.bytes)
    }
}

/// Clusters of bits that follow each other in the file as in the bitmap: they are read at once.
#[derive(Default)]
struct Bits {
    /// Where the first is, and bytes of all.
    place: FileOffset,
    len: u64,
    /// The first one's first bit.
    at: u64,
    bytes: Vec<u8>,
}

impl Bits {
    fn goes_on(&self, place: FileOffset, at: u64, cluster_size: u64) -> bool {
        (1..=AT_ONCE.saturating_sub(cluster_size)).contains(&self.len)
            && self.place.checked_add(self.len) == Some(place)
            && self.at.checked_add(self.len.saturating_mul(8)) == Some(at)
    }
}

/// Bits that are set, in rising order; handed on as bytes of the disk when a row of them ends.
struct Ones<'s> {
    row: (u64, u64),
    /// Of a bit's bytes.
    shift: u32,
    /// Bytes of the disk.
    end: u64,
    sink: RunSink<'s>,
}

impl Ones<'_> {
    fn push(&mut self, first: u64, behind: u64) -> Result<()> {
        if self.row.1 != first {
            self.hand_on()?;
            self.row.0 = first;
        }
        self.row.1 = behind;
        Ok(())
    }

    /// A cluster has at least 512 bytes: words of 64 bits.
    fn take(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        for (word, from) in bytes.as_chunks::<8>().0.iter().zip((at..).step_by(64)) {
            let mut left = u64::from_le_bytes(*word);
            while left != 0 {
                let first = left.trailing_zeros();
                let count = (left >> first).trailing_ones();
                left &= u64::MAX.unbounded_shl(first + count);
                let first = from.saturating_add(u64::from(first));
                self.push(first, first.saturating_add(u64::from(count)))?;
            }
        }
        Ok(())
    }

    fn hand_on(&mut self) -> Result<()> {
        let first = self.row.0.unbounded_shl(self.shift);
        let behind = self.row.1.saturating_mul(1u64.unbounded_shl(self.shift)).min(self.end);
        if self.row.0 < self.row.1 && first < self.end { (self.sink)(first, behind) } else { Ok(()) }
    }
}
