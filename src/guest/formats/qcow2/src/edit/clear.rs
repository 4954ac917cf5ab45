//! Emptying the disk, so that it shows its backing file.
//!
//! First the L1 table is zeroed, and that is stable; only then is given up what it referred to. Between the two there
//! are leaks.

use instar_image::reader::Reader;
use instar_image::{FileOffset, Result};

use super::{Qcow2Editor, State};
use crate::cluster::ClusterNumber;
use crate::layout::{OFLAG_COMPRESSED, host_of};

impl<'a> Qcow2Editor<'a> {
    /// See [`instar_image::Editor::empty`].
    pub(super) fn clear(&self, state: &mut State<'a>) -> Result<()> {
        for index in 0..state.tables.len() {
            self.give_up_table(state, index)?;
        }
        state.tables.clear();
        let mut steps = alloc::vec::Vec::new();
        state.tables.write_references(&mut steps);
        self.submit(&mut steps)?;
        self.settle_old(state)?;
        self.give_back(state)
    }

    /// Gives up L2 table `index` and all that it refers to. The caller takes it out of the L1 table.
    pub(super) fn give_up_table(&self, state: &mut State<'a>, index: usize) -> Result<()> {
        let offset = state.tables.offset(index)?;
        if offset == FileOffset::ZERO {
            return Ok(());
        }
        let g = &self.geometry;
        let bytes = state.tables.read(index)?.to_vec();
        let entries = Reader::new(&bytes);
        for at in (0..bytes.len()).step_by(1 << g.entry_bits) {
            self.give_up_entry(state, entries.be64(at)?);
        }
        state.counts.release(ClusterNumber::of(offset, g.cluster_bits), 1);
        Ok(())
    }

    /// Gives up what an L2 entry refers to, if that can be.
    pub(super) fn give_up_entry(&self, state: &mut State<'a>, entry: u64) {
        let g = &self.geometry;
        if entry & OFLAG_COMPRESSED != 0 {
            let (offset, len) = crate::entry::compressed_range(g, entry);
            if !self.metadata.holds_any(state, (offset, len)) {
                state.counts.release_bytes(offset, len);
            }
        } else if !g.external {
            let offset = host_of(entry);
            let is_place = offset != FileOffset::ZERO && offset.is_multiple_of(g.cluster_size());
            let number = ClusterNumber::of(offset, g.cluster_bits);
            if is_place && !self.metadata.holds(state, number) {
                state.counts.release(number, 1);
            }
        }
    }
}
