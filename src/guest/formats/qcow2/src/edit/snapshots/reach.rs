//! Which windows of the file the parts of a tree lie in: a large image's tables are not all gone through for each window.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, Ordering};

use instar_image::Result;
use instar_image::reader::{Reader, is_zero};
use instar_image::table::Span;

use crate::below::Below;
use crate::cluster::ClusterNumber;
use crate::edit::Qcow2Editor;
use crate::entry::compressed_range;
use crate::layout::{OFLAG_COMPRESSED, host_of};

/// Most parts that are told apart.
const PARTS_MAX: u64 = 1 << 16;

/// The first and the last window of each part of an L1 table.
pub struct Reach {
    /// Entries of a part.
    each: u64,
    /// Empty where there is but one window.
    parts: Vec<(AtomicU16, AtomicU16)>,
}

impl Reach {
    /// There is but one window.
    pub const fn everywhere() -> Self {
        Self { each: 1, parts: Vec::new() }
    }

    /// Whether anything below the entry of that number may be in that window.
    pub fn has(&self, number: u64, window: usize) -> bool {
        let part = usize::try_from(number / self.each).ok().and_then(|part| self.parts.get(part));
        part.is_none_or(|(first, last)| {
            usize::from(first.load(Ordering::Relaxed)) <= window && window <= usize::from(last.load(Ordering::Relaxed))
        })
    }

    fn add(&self, number: u64, window: u64) {
        let part = usize::try_from(number / self.each).ok().and_then(|part| self.parts.get(part));
        if let Some((first, last)) = part {
            let window = u16::try_from(window).unwrap_or(u16::MAX);
            first.fetch_min(window, Ordering::Relaxed);
            last.fetch_max(window, Ordering::Relaxed);
        }
    }
}

impl Qcow2Editor<'_> {
    /// That of a tree in windows of so many clusters.
    pub(super) fn reach_of(&self, l1: Span, window: u64) -> Result<Reach> {
        const ENTRIES: usize = 64;
        let each = l1.count.div_ceil(PARTS_MAX).max(1);
        let parts = (0..l1.count.div_ceil(each)).map(|_| (AtomicU16::new(u16::MAX), AtomicU16::new(0))).collect();
        let reach = Reach { each, parts };
        let g = &self.geometry;
        let below = Below { machine: self.machine, device: self.device, cluster_bits: g.cluster_bits, l1 };
        below.each(&|_| true, &|number, table, bytes| {
            reach.add(number, ClusterNumber::of(table, g.cluster_bits).get() / window);
            for group in bytes.chunks(ENTRIES << g.entry_bits).filter(|group| !is_zero(group)) {
                for at in (0..group.len()).step_by(1 << g.entry_bits) {
                    let entry = Reader::new(group).be64(at)?;
                    let (offset, len) = match entry & OFLAG_COMPRESSED {
                        0 => (host_of(entry), 1),
                        _ => compressed_range(g, entry),
                    };
                    for byte in [offset, offset.saturating_add(len.saturating_sub(1))] {
                        reach.add(number, ClusterNumber::of(byte, g.cluster_bits).get() / window);
                    }
                }
            }
            Ok(0..0)
        })?;
        Ok(reach)
    }
}
