//! Giving space back to the host, once nothing that is stable refers to it: clusters that are free, refcount blocks that
//! count nothing any more, and the end of the file, before which the tables go.

use alloc::vec::Vec;

use instar_image::{FileOffset, Result, Step};

use super::{Qcow2Editor, State};
use crate::layout::field;

impl Qcow2Editor<'_> {
    /// Tells the host of the clusters that lost their last reference. That they did is stable, and this is before they are
    /// written to again.
    pub(super) fn discard(&self, state: &mut State<'_>) -> Result<()> {
        let (device, bits) = (self.device, self.header.cluster_bits);
        let runs = state.counts.take_freed()?;
        if runs.is_empty() {
            return Ok(());
        }
        let steps: Vec<Step<'_>> = runs
            .iter()
            .map(|(first, count)| Step::Discard { device, offset: first.offset(bits), len: count << bits })
            .collect();
        self.machine.submit(&steps)?;
        self.barrier()
    }

    /// When all is done: where clusters were given up, drops the refcount blocks that are empty now, and cuts off the end of
    /// the file that nobody uses.
    pub(super) fn give_back(&self, state: &mut State<'_>) -> Result<()> {
        if !state.counts.has_thinned() {
            return Ok(());
        }
        self.drop_empty_blocks(state)?;
        if self.sink_tables(state)? {
            self.drop_empty_blocks(state)?;
        }
        let stat = self.machine.stat(self.device)?;
        if stat.block_device {
            return Ok(());
        }
        let end = state.counts.end(stat.end())?;
        self.machine.submit(&[Step::SetLength { device: self.device, len: end.get() }])?;
        self.barrier()
    }
    fn drop_empty_blocks(&self, state: &mut State<'_>) -> Result<()> {
        while state.counts.drop_empty_blocks()? {
            state.counts.publish()?;
            self.settle_old(state)?;
        }
        Ok(())
    }

    /// Moves the refcount table and the L1 table to where nothing is any more before them, so that they do not keep the file
    /// long; true: something was given up.
    fn sink_tables(&self, state: &mut State<'_>) -> Result<bool> {
        let counts_move = state.counts.sink_table()?;
        if counts_move {
            self.settle_state(state)?;
        }
        let (old, clusters) = state.tables.place();
        if clusters == 0 {
            return Ok(counts_move);
        }
        let Some(first) = state.counts.take_low(clusters, old)? else { return Ok(counts_move) };
        let offset = first.offset(self.header.cluster_bits);
        state.tables.move_to(offset);
        self.settle_new(state)?;
        let at = FileOffset::new(field::L1_OFFSET as u64);
        self.machine.submit(&[Step::Write { device: self.device, offset: at, data: &offset.get().to_be_bytes() }])?;
        self.barrier()?;
        state.counts.moved(old, first, clusters);
        state.counts.release(old, clusters);
        self.settle_old(state)?;
        Ok(true)
    }
}
