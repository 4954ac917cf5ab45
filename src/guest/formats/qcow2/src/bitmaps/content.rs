//! What the bitmaps of an image say.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::bitmap::RunSink;
use instar_image::{Bitmaps, DirtyBitmap, Error, Result};

use super::{ALL_ONES, cluster};
use crate::Qcow2Image;
use crate::window::numbers;

impl Bitmaps for Qcow2Image<'_> {
    fn list(&self) -> Vec<DirtyBitmap> {
        self.bitmaps.iter().map(super::Bitmap::shown).collect()
    }

    fn runs(&self, index: usize, sink: RunSink<'_>) -> Result<()> {
        let bitmap = self.bitmaps.get(index).ok_or_else(|| Error::usage("no such bitmap"))?;
        let shift = u32::from(bitmap.granularity_bits);
        let cluster_size = self.header.cluster_size();
        let mut bytes = vec![0; cluster_size as usize];
        let mut at = 0u64;
        // Bits in a row; handed on when the row ends.
        let mut run = (0u64, 0u64);
        let end = self.header.size;
        let hand_on = |run: (u64, u64), sink: RunSink<'_>| {
            let (first, behind) =
                (run.0.unbounded_shl(shift), run.1.saturating_mul(1u64.unbounded_shl(shift)).min(end));
            if run.0 < run.1 && first < end { sink(first, behind) } else { Ok(()) }
        };
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
                    (0, 0) => {}
                    (0, _) => {
                        if run.1 != at {
                            hand_on(run, sink)?;
                            run = (at, at);
                        }
                        run.1 = at.saturating_add(cluster_size.saturating_mul(8));
                    }
                    (place, _) => {
                        self.source.read(self.device, place, &mut bytes)?;
                        // A cluster has at least 512 bytes: words of 64 bits.
                        for (word, from) in bytes.as_chunks::<8>().0.iter().zip((at..).step_by(64)) {
                            let mut left = u64::from_le_bytes(*word);
                            while left != 0 {
                                let first = left.trailing_zeros();
                                let ones = (left >> first).trailing_ones();
                                left &= u64::MAX.unbounded_shl(first + ones);
                                let first = from.saturating_add(u64::from(first));
                                if run.1 != first {
                                    hand_on(run, sink)?;
                                    run = (first, first);
                                }
                                run.1 = first.saturating_add(u64::from(ones));
                            }
                        }
                    }
                }
                at = at.saturating_add(cluster_size.saturating_mul(8));
            }
            Ok(())
        })?;
        hand_on(run, sink)
    }
}
