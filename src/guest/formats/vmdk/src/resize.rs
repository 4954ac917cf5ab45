//! Another size for a sparse image of one file, in place, which the stock tool does not do.
//!
//! More tables need larger directories: those are written anew behind everything else, tables of nothing with them, and
//! when that is stable the header, which lies in one sector, refers to them and has the new size. The text comes last; it
//! tells people and other products, QEMU goes by the header.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::table::{Span, TableCache};
use instar_image::{DeviceId, Error, FileOffset, Machine, NewSize, Preallocation, Resizing, Result, Step};

use crate::VmdkImage;
use crate::extent::{Content, Entries, Grains};
use crate::layout::{HEADER, SECTOR, ZERO_GRAIN, field, sector_at};
use crate::text::Text;

/// Longest disk in bytes whose grains 32 bits of sectors can place.
const SIZE_MAX: u64 = (1 << 41) - (1 << 30);

/// Resizes them.
impl Resizing for VmdkImage<'_> {
    fn resize(&self, to: &NewSize) -> Result<()> {
        let (machine, device, image) = (self.purpose.machine()?, self.device, self);
        if to.preallocation != Preallocation::Off {
            return Err(Error::unsupported(format!("Unsupported preallocation mode '{}'", to.preallocation.name())));
        }
        let size = to.size.next_multiple_of(SECTOR);
        if size == 0 || size > SIZE_MAX {
            return Err(Error::usage(format!("a disk of this format has 512 to {SIZE_MAX} bytes")));
        }
        let text = Text::read(machine.source(), device)?;
        if !text.embedded {
            return Err(unsupported("only images in one sparse file can be resized"));
        }
        let grains = match image.extents.first().map(|extent| extent.part.content) {
            Some(Content::Grains(grains)) if grains.compressed.is_none() && image.create_type == "monolithicSparse" => {
                grains
            }
            _ => return Err(unsupported("only images in one sparse file that is not compressed can be resized")),
        };
        let old = image.size;
        if size > old && to.backing_len.is_some_and(|len| len > old) {
            return Err(unsupported("the backing file is longer than the image: what is added would show it"));
        }
        let mut resized = Resized { machine, device, grains, text, size, old };
        if size > old {
            resized.grow()?;
        }
        resized.write_header()?;
        let words = resized.text.with_capacity(size / SECTOR)?;
        resized.text.replace(machine, device, &words)
    }
}

fn unsupported(why: &str) -> Error {
    Error::unsupported("Image format driver does not support resize").with_hint(why)
}

struct Resized<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    grains: Grains,
    text: Text,
    size: u64,
    old: u64,
}

impl Resized<'_> {
    /// Bytes that a table maps.
    const fn reach(&self) -> u64 {
        self.grains.table.saturating_mul(self.grains.grain)
    }

    /// Makes room for what the header is going to tell of.
    fn grow(&mut self) -> Result<()> {
        self.clear_tail()?;
        let count = self.size.div_ceil(self.reach());
        if count > self.grains.directory.count {
            self.move_directories(count)?;
        }
        Ok(())
    }

    /// What a grain holds behind the end of the disk, and grains behind it that an earlier, longer disk had, would show.
    fn clear_tail(&self) -> Result<()> {
        let Grains { grain, table, directory, second, entries, .. } = self.grains;
        let is_zero = |entry| matches!(entries, Entries::Sectors { zeroes: true }) && entry == ZERO_GRAIN;
        let (number, inside) = (self.old / grain, self.old % grain);
        for (nth, directory) in [Some(directory), second].into_iter().flatten().enumerate() {
            let Some(at) = self.table(directory, number / table)? else { continue };
            let mut pieces = TableCache::<4>::new(self.machine.source(), self.device);
            let mut first = number % table;
            if inside > 0 {
                let span = Span { offset: at, count: table };
                let entry = pieces.entry(span, first)?.map_or(0, u32::from_le_bytes);
                if nth == 0 && entry != 0 && !is_zero(entry) {
                    let offset = sector_at(u64::from(entry)) + inside;
                    let zero = Step::Zero { device: self.device, offset, len: grain - inside, unmap: false };
                    self.machine.submit(&[zero, Step::Barrier { device: self.device }])?;
                }
                first += 1;
            }
            if first == 0 || first >= table {
                continue;
            }
            let data = vec![0; ((table - first) * 4) as usize];
            let write = Step::Write { device: self.device, offset: at + first * 4, data: &data };
            self.machine.submit(&[write, Step::Barrier { device: self.device }])?;
        }
        Ok(())
    }

    fn table(&self, directory: Span, index: u64) -> Result<Option<FileOffset>> {
        let entry = TableCache::<4>::new(self.machine.source(), self.device).entry(directory, index)?;
        let entry = entry.map_or(0, u32::from_le_bytes);
        Ok((entry != 0).then_some(sector_at(u64::from(entry))))
    }

    /// Writes both directories behind everything else, with tables of nothing for what is added.
    fn move_directories(&mut self, count: u64) -> Result<()> {
        let (machine, device) = (self.machine, self.device);
        let Grains { grain, table, directory, second, .. } = self.grains;
        let table_len = (table * 4).next_multiple_of(SECTOR);
        let directory_len = (count * 4).next_multiple_of(SECTOR);
        let mut end = machine.stat(device)?.end().next_multiple_of(grain);
        let mut moved = [None, None];
        // The redundant one comes first, as VMware has it.
        for (place, old) in moved.iter_mut().zip([second, Some(directory)]) {
            let Some(old) = old else { continue };
            let tables_at = end + directory_len;
            let mut bytes = Vec::with_capacity(directory_len as usize);
            let mut pieces = TableCache::<4>::new(machine.source(), device);
            let mut next = tables_at;
            for index in 0..count {
                let entry = if index < old.count { pieces.entry(old, index)? } else { None };
                let entry = entry.filter(|entry| *entry != [0; 4]);
                let entry = match entry {
                    Some(entry) => entry,
                    None => {
                        let sector =
                            u32::try_from(next / SECTOR).map_err(|_| Error::limit("the file gets too large"))?;
                        next += table_len;
                        sector.to_le_bytes()
                    }
                };
                bytes.extend_from_slice(&entry);
            }
            bytes.resize(directory_len as usize, 0);
            machine.submit(&[
                Step::SetLength { device, len: next.get() },
                Step::Zero { device, offset: tables_at, len: next - tables_at, unmap: true },
                Step::Write { device, offset: end, data: &bytes },
            ])?;
            *place = Some(Span { offset: end, count });
            end = next;
        }
        machine
            .submit(&[Step::SetLength { device, len: end.next_multiple_of(grain).get() }, Step::Barrier { device }])?;
        let [second, first] = moved;
        self.grains.second = second;
        self.grains.directory = first.unwrap_or(directory);
        Ok(())
    }

    fn write_header(&mut self) -> Result<()> {
        let put = |head: &mut [u8; HEADER], at: usize, value: u64| {
            if let Some(place) = head.get_mut(at..at + 8) {
                place.copy_from_slice(&value.to_le_bytes());
            }
        };
        let head = &mut self.text.head;
        put(head, field::CAPACITY, self.size / SECTOR);
        put(head, field::DIRECTORY, self.grains.directory.offset / SECTOR);
        if let Some(second) = self.grains.second {
            put(head, field::SECOND, second.offset / SECTOR);
        }
        let device = self.device;
        let write = Step::Write { device, offset: FileOffset::ZERO, data: head };
        self.machine.submit(&[Step::Barrier { device }, write, Step::Barrier { device }])
    }
}
