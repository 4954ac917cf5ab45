//! Another parent for a child, or none. What the metadata tell of it lies in one sector each, and so changes at once.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::bits::runs_of;
use instar_image::reader::Reader;
use instar_image::table::{Span, TableCache};
use instar_image::{Backing, Error, FileOffset, Result, Step};

use super::{VhdxEditor, refuse};
use crate::bat::Entry;
use crate::layout::{BITMAP_BLOCK, TABLE, item, put, state};
use crate::metadata::{ENTRY, HAS_PARENT, HEADER};
use crate::write::encode::locator;
use crate::write::spec::parent_of;

/// Entries that are written at once.
const AT_ONCE: usize = 1 << 12;
/// What is written at once of a table, in bytes.
const SECTOR: usize = 512;

impl VhdxEditor<'_> {
    /// The metadata table, and where in it the entry of an item is: in the first sector.
    fn metadata_table(&self, guid: &[u8; 16]) -> Result<(Vec<u8>, usize)> {
        let mut table = vec![0; TABLE];
        self.machine.read(self.device, self.metadata.at, &mut table)?;
        let entry = (HEADER..=SECTOR - ENTRY).step_by(ENTRY).find(|at| table.get(*at..*at + 16) == Some(guid));
        let entry = entry.ok_or_else(|| refuse("its metadata table is too long"))?;
        Ok((table, entry))
    }

    /// Writes the sector of the table after everything before, and before everything after.
    fn write_table(&self, table: &[u8]) -> Result<()> {
        let device = self.device;
        let data = table.get(..SECTOR).unwrap_or_default();
        let barrier = Step::Barrier { device };
        self.machine.submit(&[barrier, Step::Write { device, offset: self.metadata.at, data }, barrier])
    }

    /// The child stands on `backing` from now on, which is known by `linkage`: a new locator in a free place of the region
    /// is referred to instead of the old one.
    pub fn name_parent(&self, backing: &Backing, linkage: &[u8; 16]) -> Result<()> {
        let (mut table, entry) = self.metadata_table(&item::PARENT_LOCATOR)?;
        let text = locator(&parent_of(backing)?, linkage);
        let count = usize::from(Reader::new(&table).le16(10)?);
        let mut items: Vec<(u64, u64)> = Vec::new();
        for number in 0..count {
            let r = Reader::new(table.get(HEADER + number * ENTRY..).unwrap_or_default());
            let (at, len) = (r.le32(16)?, r.le32(20)?);
            items.push((at.into(), u64::from(at) + u64::from(len)));
        }
        items.sort_unstable();
        let len = text.len() as u64;
        let mut at = TABLE as u64;
        for (start, end) in items {
            if start >= at.saturating_add(len) {
                break;
            }
            at = at.max(end);
        }
        if at.saturating_add(len) > self.metadata.len {
            return Err(Error::limit("the metadata have no room for the parent's name"));
        }
        let device = self.device;
        self.machine.submit(&[Step::Write { device, offset: self.metadata.at + at, data: &text }])?;
        // Both lie in the region, which is shorter than 4 GiB.
        put(&mut table, entry + 16, &(at as u32).to_le_bytes());
        put(&mut table, entry + 20, &(len as u32).to_le_bytes());
        self.write_table(&table)
    }

    /// The child stands on nothing from now on: what it left to its parent is zeroes.
    pub fn leave_parent(&self) -> Result<()> {
        let (machine, device) = (self.machine, self.device);
        self.fill_blocks()?;
        let (table, entry) = self.metadata_table(&item::FILE_PARAMETERS)?;
        let at = Reader::new(table.get(entry..).unwrap_or_default()).le32(16)?;
        // Behind the size of a block.
        let offset = self.metadata.at.saturating_add(at.into()).saturating_add(4);
        if !self.metadata.holds(offset, 4) {
            return Err(Error::corrupt("the file parameters lie outside of the metadata"));
        }
        let mut flags = [0; 4];
        machine.read(device, offset, &mut flags)?;
        let flags = (u32::from_le_bytes(flags) & !HAS_PARENT).to_le_bytes();
        let barrier = Step::Barrier { device };
        machine.submit(&[barrier, Step::Write { device, offset, data: &flags }, barrier])?;
        let (mut table, entry) = self.metadata_table(&item::PARENT_LOCATOR)?;
        let count = Reader::new(&table).le16(10)?;
        let end = (HEADER + usize::from(count) * ENTRY).min(TABLE);
        if end > SECTOR {
            return Err(refuse("its metadata table is too long"));
        }
        // The last entry takes its place.
        let last = end - ENTRY;
        let bytes = table.get(last..end).unwrap_or_default().to_vec();
        put(&mut table, entry, &bytes);
        put(&mut table, last, &[0; ENTRY]);
        put(&mut table, 10, &count.saturating_sub(1).to_le_bytes());
        self.write_table(&table)
    }

    /// Makes every block that is partly there whole, with zeroes in the sectors that were the parent's; then no bitmap is
    /// needed.
    fn fill_blocks(&self) -> Result<()> {
        let geometry = self.geometry;
        let table = Span { offset: geometry.bat, count: geometry.entries() };
        let mut pieces = TableCache::<8>::new(self.machine.source(), self.device);
        let mut bitmap = (FileOffset::MAX, Vec::new());
        let mut waiting: Vec<(u64, u64)> = Vec::new();
        for number in 0..geometry.blocks {
            let index = geometry.payload(number);
            let entry = Entry(pieces.entry(table, index)?.map_or(0, u64::from_le_bytes));
            if entry.state() != state::PARTIALLY_PRESENT {
                continue;
            }
            let of = pieces.entry(table, geometry.bitmap(number))?;
            let of = Entry(of.map_or(0, u64::from_le_bytes));
            if of.state() != state::FULLY_PRESENT {
                return Err(Error::corrupt("a block is partly present and has no sector bitmap"));
            }
            if bitmap.0 != of.offset() {
                bitmap = (of.offset(), vec![0; BITMAP_BLOCK as usize]);
                self.machine.read(self.device, bitmap.0, &mut bitmap.1)?;
            }
            self.clear_foreign(number, entry.offset(), &bitmap.1)?;
            waiting.push((index, Entry::at(entry.offset(), state::FULLY_PRESENT).0));
            if waiting.len() == AT_ONCE {
                self.set_entries(&mut waiting)?;
            }
        }
        self.set_entries(&mut waiting)?;
        for index in (0..table.count).filter(|index| geometry.is_bitmap(*index)) {
            if pieces.entry(table, index)?.is_some_and(|entry| entry != [0; 8]) {
                waiting.push((index, 0));
            }
        }
        self.set_entries(&mut waiting)
    }

    /// Clears the sectors of the block at `offset` that are the parent's.
    fn clear_foreign(&self, number: u64, offset: FileOffset, bitmap: &[u8]) -> Result<()> {
        let sector = self.state.lock().bits.sector();
        let first = (number % self.geometry.ratio) * self.geometry.block / sector;
        let own = |bit: u64| bitmap.get((bit / 8) as usize).is_some_and(|byte| byte & (1 << (bit % 8)) != 0);
        runs_of(first..first + self.geometry.block / sector, own, |bit, count, own| {
            let (offset, len) = (offset + (bit - first) * sector, count * sector);
            let zero = Step::Zero { device: self.device, offset, len, unmap: true };
            if own { Ok(()) } else { self.machine.submit(&[zero]) }
        })
    }

    /// Writes entries after everything before, and before everything after.
    fn set_entries(&self, waiting: &mut Vec<(u64, u64)>) -> Result<()> {
        let device = self.device;
        let barrier = Step::Barrier { device };
        let entries: Vec<(u64, [u8; 8])> = waiting.drain(..).map(|(n, entry)| (n, entry.to_le_bytes())).collect();
        let bat = self.geometry.bat;
        let writes = entries.iter().map(|(n, data)| Step::Write { device, offset: bat + n * 8, data });
        self.machine.submit(&[barrier].into_iter().chain(writes).chain([barrier]).collect::<Vec<_>>())
    }
}
