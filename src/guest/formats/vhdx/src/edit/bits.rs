//! Sector bitmaps of a child that are being changed ([MS-VHDX] 2.5.1.2), in pieces: a bitmap is 1 MiB long.

use alloc::collections::{BTreeMap, btree_map};
use alloc::vec;
use alloc::vec::Vec;

use instar_image::{DeviceId, FileOffset, Machine, Result, Step};

/// Bytes of a piece.
const PIECE: u64 = 4096;
/// Pieces that may wait: 4 MiB.
const WAITING_MAX: usize = 1 << 10;

/// The bitmaps of one image, as they are going to be.
pub struct Bits<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    /// Bytes of a sector of the disk: what a bit is for.
    sector: u64,
    /// Offset in the file to bytes.
    pieces: BTreeMap<FileOffset, Vec<u8>>,
    /// A piece that was only looked at.
    held: (Option<FileOffset>, Vec<u8>),
}

impl<'a> Bits<'a> {
    /// Nothing is changed yet.
    pub const fn new(machine: &'a dyn Machine, device: DeviceId, sector: u64) -> Self {
        Self { machine, device, sector, pieces: BTreeMap::new(), held: (None, Vec::new()) }
    }

    /// Sets or clears the bits of the bytes from `from` to `to` of a chunk whose bitmap is at `offset`. `fresh`: nothing is
    /// stored there.
    pub fn set(&mut self, offset: FileOffset, fresh: bool, (from, to): (u64, u64), own: bool) -> Result<()> {
        let (mut bit, end) = (from / self.sector, to.div_ceil(self.sector));
        while bit < end {
            let at = offset + bit / 8 / PIECE * PIECE;
            let (machine, device) = (self.machine, self.device);
            let piece = match self.pieces.entry(at) {
                btree_map::Entry::Occupied(held) => held.into_mut(),
                btree_map::Entry::Vacant(place) => {
                    let mut bytes = vec![0; PIECE as usize];
                    if !fresh {
                        machine.read(device, at, &mut bytes)?;
                    }
                    place.insert(bytes)
                }
            };
            let until = end.min((bit / 8 / PIECE + 1) * PIECE * 8);
            for bit in bit..until {
                if let Some(byte) = piece.get_mut((bit / 8 % PIECE) as usize) {
                    let mask = 1 << (bit % 8);
                    *byte = if own { *byte | mask } else { *byte & !mask };
                }
            }
            bit = until;
        }
        Ok(())
    }

    /// Whether the first of these bytes of a chunk is the child's own, and for how many of them that stays; at most as far as
    /// one piece goes. `fresh`: nothing is stored there.
    pub fn run(&mut self, offset: FileOffset, fresh: bool, (from, to): (u64, u64)) -> Result<(bool, u64)> {
        let (first, end) = (from / self.sector, to.div_ceil(self.sector));
        let at = offset + first / 8 / PIECE * PIECE;
        let end = end.min((first / 8 / PIECE + 1) * PIECE * 8);
        let bytes = match self.pieces.get(&at) {
            Some(piece) => piece,
            None => {
                if self.held.0 != Some(at) {
                    self.held = (None, vec![0; PIECE as usize]);
                    if !fresh {
                        self.machine.read(self.device, at, &mut self.held.1)?;
                    }
                    self.held.0 = Some(at);
                }
                &self.held.1
            }
        };
        let own = |bit: u64| bytes.get((bit / 8 % PIECE) as usize).is_some_and(|byte| byte & (1 << (bit % 8)) != 0);
        let is = own(first);
        let next = (first + 1..end).find(|bit| own(*bit) != is).unwrap_or(end);
        Ok((is, (next * self.sector).min(to).saturating_sub(from)))
    }

    /// Bytes of a sector of the disk.
    pub const fn sector(&self) -> u64 {
        self.sector
    }

    /// So much waits that it is to be written.
    pub fn is_full(&self) -> bool {
        self.pieces.len() >= WAITING_MAX
    }

    /// Writes what has changed.
    pub fn write(&mut self) -> Result<()> {
        let device = self.device;
        let steps: Vec<Step<'_>> =
            self.pieces.iter().map(|(offset, data)| Step::Write { device, offset: *offset, data }).collect();
        if !steps.is_empty() {
            self.machine.submit(&steps)?;
            self.machine.submit(&[Step::Barrier { device }])?;
        }
        self.pieces.clear();
        self.held.0 = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_image::Source;

    const SECTOR: u64 = 512;

    #[test]
    fn what_is_stored_stays_but_for_what_is_said() {
        let stored = vec![0b1000_0001; 2 * PIECE as usize];
        let machine = instar_sim::Machine::new();
        let device = machine.add_writable(&stored);
        let mut bits = Bits::new(&machine, device, SECTOR);
        let end = PIECE * 8 * SECTOR;
        // Across the pieces' border: the last four bits of one, the first four of the other.
        bits.set(FileOffset::ZERO, false, (end - 4 * SECTOR, end + 4 * SECTOR), true).expect("it is writable");
        bits.set(FileOffset::ZERO, false, (0, 2 * SECTOR), false).expect("it is writable");
        bits.write().expect("it is writable");
        let mut found = vec![0; stored.len()];
        machine.read(device, FileOffset::ZERO, &mut found).expect("it is there");
        let border = PIECE as usize;
        assert_eq!((found[0], found[1]), (0b1000_0000, 0b1000_0001));
        assert_eq!((found[border - 1], found[border], found[border + 1]), (0b1111_0001, 0b1000_1111, 0b1000_0001));
    }

    #[test]
    fn a_new_bitmap_does_not_show_what_was_there() {
        let machine = instar_sim::Machine::new();
        let device = machine.add_writable(vec![0xff; PIECE as usize]);
        let mut bits = Bits::new(&machine, device, 4096);
        bits.set(FileOffset::ZERO, true, (4096, 3 * 4096), true).expect("it is writable");
        bits.write().expect("it is writable");
        let mut found = [0; 2];
        machine.read(device, FileOffset::ZERO, &mut found).expect("it is there");
        assert_eq!(found, [0b110, 0]);
    }
}
