//! A new extent in grains: its header, and its tables, which lie at the front, as QEMU has it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::levels::{LevelWriter, Levels};
use instar_image::table::Span;
use instar_image::{DeviceId, FileOffset, Machine, Result, Step};

use super::spec::TEXT_SECTORS;
use crate::layout::{
    FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, FLAG_REDUNDANT, FLAG_ZERO_GRAIN, HEADER, MAGIC_SPARSE, SECTOR,
    ZERO_GRAIN, field,
};
use crate::regions::TABLES;

/// Bytes of a grain.
pub const GRAIN: u64 = 128 * SECTOR;
/// Grains of a table.
pub const TABLE: u64 = 512;
/// Bytes that are written at once to a directory.
const AT_ONCE: u64 = 1 << 16;
/// Bytes that show a transfer that has changed line ends.
const LINE_ENDS: &[u8] = b"\n \r\n";

/// A new extent in grains.
#[derive(Clone, Copy)]
pub struct GrainExtent {
    /// Where it is.
    pub device: DeviceId,
    /// Bytes of its part of the disk.
    pub size: u64,
    /// Grains are compressed.
    pub compressed: bool,
    /// Grains of zeroes need no place.
    pub zeroed_grain: bool,
}

impl GrainExtent {
    /// Tables in each directory.
    const fn tables(&self) -> u64 {
        self.size.div_ceil(GRAIN).div_ceil(TABLE)
    }

    /// Bytes of a directory.
    const fn directory_len(&self) -> u64 {
        (self.tables() * 4).next_multiple_of(SECTOR)
    }

    /// Where the redundant directory (0) and the other one (1) are; the tables follow each. There is room for a
    /// descriptor before them, whether it is there or in a file of its own.
    const fn directory(&self, nth: u64) -> FileOffset {
        FileOffset::new((1 + TEXT_SECTORS) * SECTOR + nth * (self.directory_len() + self.tables() * TABLE * 4))
    }

    /// Where the first grain is.
    const fn data(&self) -> FileOffset {
        self.directory(2).next_multiple_of(GRAIN)
    }

    /// Writes all that is before the first grain, but for the header. `backed`: what it does not have shows a backing file.
    pub fn make<'a>(&self, machine: &'a dyn Machine, backed: bool) -> Result<Box<LevelWriter<'a, 4>>> {
        let device = self.device;
        machine.submit(&[Step::Zero { device, offset: FileOffset::ZERO, len: self.data().get(), unmap: true }])?;
        for directory in [self.directory(0), self.directory(1)] {
            self.write_directory(machine, directory)?;
        }
        let [second, first] = [0, 1].map(|nth| Span { offset: self.directory(nth), count: self.tables() });
        let levels = Levels {
            device,
            size: self.size,
            cluster: GRAIN,
            l1: first,
            copy: Some(second),
            l2_entries: TABLE,
            backed,
            zero: self.zeroed_grain.then_some(u64::from(ZERO_GRAIN)),
            ..TABLES
        };
        LevelWriter::new(machine, levels, self.data()).map(Box::new)
    }

    /// The tables follow their directory.
    fn write_directory(&self, machine: &dyn Machine, directory: FileOffset) -> Result<()> {
        let tables = directory + self.directory_len();
        let step = AT_ONCE / 4;
        let mut index = 0;
        while index < self.tables() {
            let end = self.tables().min(index + step);
            let sector = |number: u64| u32::try_from((tables + number * TABLE * 4) / SECTOR).unwrap_or(u32::MAX);
            let data: Vec<u8> = (index..end).flat_map(|number| sector(number).to_le_bytes()).collect();
            machine.submit(&[Step::Write { device: self.device, offset: directory + index * 4, data: &data }])?;
            index = end;
        }
        Ok(())
    }

    /// The first sector.
    pub fn header(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        let version: u32 = match (self.compressed, self.zeroed_grain) {
            (true, _) => 3,
            (false, true) => 2,
            (false, false) => 1,
        };
        let zeroes = if self.zeroed_grain { FLAG_ZERO_GRAIN } else { 0 };
        let compressed = if self.compressed { FLAG_COMPRESSED | FLAG_MARKERS } else { 0 };
        put(0, MAGIC_SPARSE);
        put(field::VERSION, &version.to_le_bytes());
        put(field::FLAGS, &(FLAG_NEWLINES | FLAG_REDUNDANT | zeroes | compressed).to_le_bytes());
        put(field::CAPACITY, &(self.size / SECTOR).to_le_bytes());
        put(field::GRAIN, &(GRAIN / SECTOR).to_le_bytes());
        put(field::TEXT, &1u64.to_le_bytes());
        put(field::TEXT_LEN, &TEXT_SECTORS.to_le_bytes());
        put(field::TABLE, &(TABLE as u32).to_le_bytes());
        put(field::SECOND, &(self.directory(0) / SECTOR).to_le_bytes());
        put(field::DIRECTORY, &(self.directory(1) / SECTOR).to_le_bytes());
        put(field::OVERHEAD, &(self.data() / SECTOR).to_le_bytes());
        put(field::LINE_ENDS, LINE_ENDS);
        put(field::COMPRESSION, &u16::from(self.compressed).to_le_bytes());
        bytes
    }
}
