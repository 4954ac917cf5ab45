//! Reads: finds where requests lie and reads them in one crossing. Decompression and decryption are part of a read.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::walk::walk;
use instar_image::{Machine, Result};

use super::{ROOM, Requests, failed, failure};
use crate::copy::Disks;
use crate::copy::fill::{Area, Filler};
use crate::copy::plan::Part;

/// One worker's buffers.
pub struct Reader<'a> {
    chain: &'a Chain<'a>,
    requests: &'a Requests,
    filler: Filler<'a>,
    room: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub fn new(machine: &'a dyn Machine, chain: &'a Chain<'a>, requests: &'a Requests) -> Self {
        let filler = Filler::new(Disks::of(chain), machine.source(), None);
        Self { chain, requests, filler, room: Vec::new() }
    }

    /// Carries out the requests that begin there: all in one crossing, or, where one alone is longer than the room, piece
    /// by piece.
    pub fn read(&mut self, starts: &[u64]) -> Result<()> {
        let len = self.requests.len;
        let mut done = 0;
        while done < len {
            let piece = ROOM.min(len - done);
            self.read_pieces(starts, done, piece)?;
            done += piece;
        }
        Ok(())
    }

    /// Reads `len` bytes of each request, from byte `skip` of it on.
    fn read_pieces(&mut self, starts: &[u64], skip: u64, len: u64) -> Result<()> {
        let parts: Vec<Vec<Part>> = starts.iter().map(|at| self.parts(at + skip, len)).collect::<Result<_>>()?;
        if self.room.len() < starts.len() * len as usize {
            self.room = vec![0; starts.len() * len as usize];
        }
        let bufs = self.room.chunks_exact_mut(len as usize);
        let mut areas: Vec<Area<'_>> = starts
            .iter()
            .zip(&parts)
            .zip(bufs)
            .map(|((at, parts), buf)| Area { parts, base: at + skip, buf })
            .collect();
        self.filler.fill_all(&mut areas).map_err(|_| failure("Input/output error"))
    }

    /// What a range of the disk consists of.
    fn parts(&self, at: u64, len: u64) -> Result<Vec<Part>> {
        let found = walk(at..at.saturating_add(len), |at, max| {
            let (depth, extent) = self.chain.extent(at, max).map_err(|error| failed(&error))?;
            // The stock tool asks the images below even where they hold nothing.
            if !self.chain.shows(depth) {
                return Err(failure("Invalid argument"));
            }
            Ok(Part { source: 0, depth, at, extent, work: true })
        });
        found.collect()
    }
}
