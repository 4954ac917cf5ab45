//! Another parent for a child, or none.
//!
//! The dynamic disk header, which names the parent, is longer than a sector. So a new one is written behind everything else,
//! and the footer at the beginning, which lies in one sector, refers to that one while the old one is overwritten.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::bits::runs_of;
use instar_image::{Backing, Error, FileOffset, Result, Step};

use super::BlockEditor;
use crate::layout::{DYNAMIC_HEADER, FOOTER, SECTOR, UNUSED, bitmap_len, block_at, checksum, footer, put};
use crate::write::encode::{Identity, Parent, dynamic_header, locator};
use crate::write::spec::parent_of;

/// Footer of a disk of blocks without a parent.
const DYNAMIC: u32 = 3;

/// Bitmaps that are written at once.
const AT_ONCE: usize = 1 << 12;

/// The footer with one field changed.
fn changed(of: &[u8; FOOTER], field: usize, value: &[u8]) -> [u8; FOOTER] {
    let mut bytes = *of;
    put(&mut bytes, field, value);
    let sum = checksum(&bytes, footer::CHECKSUM);
    put(&mut bytes, footer::CHECKSUM, &sum.to_be_bytes());
    bytes
}

impl BlockEditor<'_> {
    /// Writes after everything before, and before everything after.
    fn write(&self, offset: FileOffset, data: &[u8]) -> Result<()> {
        let device = self.device;
        let barrier = Step::Barrier { device };
        self.machine.submit(&[barrier, Step::Write { device, offset, data }, barrier])
    }

    fn header_of(&self, parent: Option<&Parent<'_>>) -> Result<Vec<u8>> {
        let count = |n: u64| u32::try_from(n).map_err(|_| Error::limit("the table is too long"));
        Ok(dynamic_header(self.table.offset, count(self.table.count)?, count(self.block)?, parent))
    }

    /// The child stands on `backing` from now on, which is known by `identity`.
    pub fn name_parent(&self, backing: &Backing, identity: Identity) -> Result<()> {
        let state = &mut *self.state.lock();
        let (machine, device) = (self.machine, self.device);
        let name = parent_of(backing)?;
        let (code, text) = locator(&name);
        let mut padded = text.clone();
        padded.resize(text.len().next_multiple_of(SECTOR as usize), 0);
        let locators = [(code, text, state.end)];
        let (unique_id, time) = identity;
        let header = self.header_of(Some(&Parent { name: &name, unique_id, time, locators: &locators }))?;
        let (text_at, header_at) = (state.end, state.end + padded.len() as u64);
        let tail_at = header_at + DYNAMIC_HEADER as u64;
        machine.submit(&[
            Step::SetLength { device, len: (tail_at + SECTOR).get() },
            Step::Write { device, offset: text_at, data: &padded },
            Step::Write { device, offset: header_at, data: &header },
            Step::Write { device, offset: tail_at, data: &self.footer.bytes },
        ])?;
        self.write(
            FileOffset::ZERO,
            &changed(&self.footer.bytes, footer::DATA_OFFSET, &header_at.get().to_be_bytes()),
        )?;
        self.write(self.footer.data_offset, &header)?;
        self.write(FileOffset::ZERO, &self.footer.bytes)?;
        self.write(header_at, &self.footer.bytes)?;
        state.end = header_at;
        if machine.stat(device)?.block_device {
            return Ok(());
        }
        machine.submit(&[Step::SetLength { device, len: (header_at + SECTOR).get() }, Step::Barrier { device }])
    }

    /// The child stands on nothing from now on: what it left to its parent is zeroes.
    pub fn leave_parent(&self) -> Result<()> {
        let state = &mut *self.state.lock();
        let (machine, device) = (self.machine, self.device);
        let all = vec![0xff; usize::try_from(bitmap_len(self.block)).unwrap_or_default()];
        let mut bits = all.clone();
        let mut waiting: Vec<FileOffset> = Vec::new();
        for number in 0..self.table.count {
            let entry = state.pieces.entry(self.table, number)?.map_or(UNUSED, u32::from_be_bytes);
            let offset = block_at(entry);
            if entry != UNUSED {
                machine.read(device, offset, &mut bits)?;
                if bits != all {
                    self.clear_foreign(offset + bitmap_len(self.block), &bits)?;
                    waiting.push(offset);
                }
            }
            if waiting.len() == AT_ONCE || number + 1 == self.table.count {
                let barrier = Step::Barrier { device };
                let writes = waiting.drain(..).map(|offset| Step::Write { device, offset, data: &all });
                machine.submit(&[barrier].into_iter().chain(writes).chain([barrier]).collect::<Vec<_>>())?;
            }
        }
        let foot = changed(&self.footer.bytes, footer::TYPE, &DYNAMIC.to_be_bytes());
        self.write(FileOffset::ZERO, &foot)?;
        // Nobody looks for a parent in it any more.
        self.write(self.footer.data_offset, &self.header_of(None)?)?;
        self.write(state.end, &foot)
    }

    /// Clears the sectors that are the parent's of a block whose data are at `offset`.
    fn clear_foreign(&self, offset: FileOffset, bits: &[u8]) -> Result<()> {
        let own = |n: u64| bits.get((n / 8) as usize).is_some_and(|byte| byte & (0x80 >> (n % 8)) != 0);
        runs_of(0..self.block / SECTOR, own, |first, count, own| {
            let (offset, len) = (offset + first * SECTOR, count * SECTOR);
            let zero = Step::Zero { device: self.device, offset, len, unmap: true };
            if own { Ok(()) } else { self.machine.submit(&[zero]) }
        })
    }
}
