//! Doing without the zero flag, which version 2 does not have: a cluster that reads as zeroes by its entry has no place from
//! then on where nothing shows through, and else one that is zeroes.

use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::table::Span;
use instar_image::{FileOffset, Result};

use super::metadata::in_the_way;
use super::{Qcow2Editor, State, WAITING_MAX};
use crate::cluster::ClusterNumber;
use crate::layout::{OFLAG_COMPRESSED, OFLAG_COPIED, OFLAG_ZERO, host_of};

impl<'a> Qcow2Editor<'a> {
    /// Goes through all L2 tables of the disk. Tables that it shares with snapshots become its own.
    pub fn expand_zeroes(&self) -> Result<()> {
        let state = &mut *self.state.lock();
        self.clear_stale()?;
        for index in 0..state.tables.len() {
            if state.tables.offset(index)? != FileOffset::ZERO {
                self.expand_table(state, index)?;
            }
            if state.counts.waiting().saturating_add(state.tables.waiting()) > WAITING_MAX {
                self.settle_state(state)?;
            }
        }
        self.settle_state(state)
    }

    fn expand_table(&self, state: &mut State<'a>, index: usize) -> Result<()> {
        let g = &self.geometry;
        let bytes = state.tables.read(index)?.to_vec();
        let width = 1usize << g.entry_bits;
        for at in (0..bytes.len()).step_by(width) {
            let entry = Reader::new(&bytes).be64(at)?;
            if entry & OFLAG_COMPRESSED != 0 || entry & OFLAG_ZERO == 0 {
                continue;
            }
            let cluster = ((index as u64) << g.table_bits()) + (at >> g.entry_bits) as u64;
            let entry = self.without_flag(state, cluster << g.cluster_bits, host_of(entry))?;
            state.tables.change(index, at, &entry.to_be_bytes(), &mut state.counts)?;
        }
        Ok(())
    }

    /// The entry that says the same as one with the zero flag, of the cluster at byte `at` of the disk, which has its place at
    /// `host` if it has one.
    fn without_flag(&self, state: &mut State<'a>, at: u64, host: FileOffset) -> Result<u64> {
        let g = &self.geometry;
        let size = g.cluster_size();
        if host == FileOffset::ZERO && self.header.backing.0 == FileOffset::ZERO {
            return Ok(0);
        }
        let held = host != FileOffset::ZERO && host.is_multiple_of(size);
        let number = ClusterNumber::of(host, g.cluster_bits);
        if held && self.metadata.holds(state, number) {
            return Err(in_the_way());
        }
        // What is in it shows nowhere, unless another disk shares it.
        let place = match held && state.counts.get(number)? == 1 {
            true => host,
            false => {
                if held {
                    state.counts.release(number, 1);
                }
                state.counts.allocate(1)?.offset(g.cluster_bits)
            }
        };
        self.submit_placed(self.zeroes(at, place, size).into_iter().collect::<Vec<_>>())?;
        Ok(place.get() | OFLAG_COPIED)
    }

    /// Sets the disk's copied flags by the counts.
    pub fn correct_flags(&self) -> Result<()> {
        let l1 = Span { offset: self.header.l1_offset, count: u64::from(self.header.l1_size) };
        self.set_flags(&mut self.state.lock(), l1)
    }
}
