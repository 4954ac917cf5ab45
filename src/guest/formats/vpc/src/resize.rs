//! Another size for an image in place, which the stock tool does not do.
//!
//! Of a dynamic disk the copy of the footer at the beginning counts. It lies in one sector, as what changes of the dynamic
//! disk header does, so that each changes at once; all that they are going to say is stable before. Of a run that is cut the
//! footer at the end may be missing or an older one.

use alloc::format;
use alloc::vec::Vec;

use instar_image::blocks::Blocks;
use instar_image::check::Quiet;
use instar_image::packing::Packing;
use instar_image::table::Span;
use instar_image::{
    CheckContext, CheckReport, DeviceId, Error, FileOffset, Machine, NewSize, Preallocation, Resizing, Result, Step,
};

use crate::VpcImage;
use crate::check::{self, Subject};
use crate::edit::end_of_file;
use crate::header::{Dynamic, Footer, Kind, file_end};
use crate::layout::{DYNAMIC_HEADER, ENTRIES_MAX, FOOTER, MAX_SECTORS, SECTOR, UNUSED, bitmap_len, block_at};

/// Entries that are changed at once.
const AT_ONCE: usize = 1 << 13;

impl Resizing for VpcImage<'_> {
    fn resize(&self, to: &NewSize) -> Result<()> {
        let (machine, device, footer) = (self.purpose.machine()?, self.device, self.footer.clone());
        let size = to.size.next_multiple_of(SECTOR);
        if size / SECTOR > MAX_SECTORS {
            let most = MAX_SECTORS * SECTOR;
            return Err(Error::usage(format!("The image size is too large for file format 'vpc': at most {most}")));
        }
        if size == footer.size {
            return Ok(());
        }
        if footer.kind == Kind::Fixed && !footer.at_start {
            return Fixed { machine, device, footer, size }.resize(to.preallocation);
        }
        if to.preallocation != Preallocation::Off {
            return Err(unsupported(to.preallocation));
        }
        let (true, Some(header)) = (footer.at_start && footer.kind != Kind::Fixed, &self.dynamic) else {
            return Err(Error::corrupt("the copy of the footer at the start is damaged"));
        };
        if size > footer.size && to.backing_len.is_some_and(|len| len > footer.size) {
            return Err(Error::unsupported("the parent is longer than the disk: it would show in what is added"));
        }
        let mut disk = Disk::open(machine, device, footer, header.clone())?;
        if size > disk.footer.size { disk.grow(size) } else { disk.shrink(size) }
    }
}

fn unsupported(mode: Preallocation) -> Error {
    Error::unsupported(format!("Unsupported preallocation mode '{}'", mode.name()))
}

/// A fixed disk: the footer follows the disk's bytes, and counts where the file ends.
struct Fixed<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    footer: Footer,
    size: u64,
}

impl Fixed<'_> {
    fn resize(&self, preallocation: Preallocation) -> Result<()> {
        let full = match preallocation {
            Preallocation::Off => None,
            Preallocation::Falloc => Some(false),
            Preallocation::Full => Some(true),
            Preallocation::Metadata => return Err(unsupported(preallocation)),
        };
        let (machine, device) = (self.machine, self.device);
        // Where the disk's bytes end, which begin with the file.
        let (old, new) = (FileOffset::new(self.footer.size), FileOffset::new(self.size));
        let stat = machine.stat(device)?;
        let at = file_end(machine.source(), device)?.saturating_sub(SECTOR);
        if at < old {
            return Err(Error::corrupt("the disk has more bytes than the file: the image was truncated"));
        }
        if stat.block_device && new > at {
            return Err(Error::usage(format!("the device has room for a disk of {at} bytes")));
        }
        let end = if stat.block_device { at } else { new };
        if end > at {
            // As long as it says the old size, it is the old one's footer that moves.
            self.put(end, &self.footer.bytes)?;
            if let Some(full) = full {
                let offset = at + SECTOR;
                let allocate = Step::Allocate { device, offset, len: end - offset, full };
                if let Err(error) = machine.submit(&[allocate]) {
                    machine.submit(&[Step::SetLength { device, len: offset.get() }])?;
                    return Err(error.context("Could not preallocate new data"));
                }
            }
        }
        if new > old {
            // The old footer, and whatever else lay behind the disk.
            let len = new.min(at + SECTOR).saturating_since(old);
            let zero = Step::Zero { device, offset: old, len, unmap: full.is_none() };
            machine.submit(&[zero, Step::Barrier { device }])?;
        }
        let footer = self.footer.resized(self.size);
        self.put(end.max(at), &footer)?;
        if end < at {
            self.put(end, &footer)?;
            machine.submit(&[Step::SetLength { device, len: (end + SECTOR).get() }, Step::Barrier { device }])?;
        }
        Ok(())
    }

    fn put(&self, offset: FileOffset, footer: &[u8; FOOTER]) -> Result<()> {
        let device = self.device;
        self.machine.submit(&[Step::Write { device, offset, data: footer }, Step::Barrier { device }])
    }
}

/// A dynamic or differencing disk.
struct Disk<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    footer: Footer,
    header: Dynamic,
    /// Each with its bitmap.
    blocks: Blocks,
    /// Where the footer at the end is to be.
    end: FileOffset,
}

impl<'a> Disk<'a> {
    fn open(machine: &'a dyn Machine, device: DeviceId, footer: Footer, header: Dynamic) -> Result<Self> {
        if !footer.data_offset.is_multiple_of(SECTOR) {
            return Err(Error::unsupported("the dynamic disk header does not begin with a sector"));
        }
        let end = end_of_file(machine, device, &header)?;
        let subject = Subject { device, footer: &footer, dynamic: Some(&header) };
        let (mut report, file_end) = (CheckReport::default(), machine.stat(device)?.end());
        let mut cx = CheckContext { machine, findings: &mut Quiet };
        check::blocks(machine.source(), &subject, &header, file_end, &mut cx, &mut report)?;
        if report.corruptions > 0 {
            return Err(Error::corrupt("the image is damaged: instar check tells where"));
        }
        let blocks = header.blocks(device, footer.size);
        Ok(Self { machine, device, footer, header, blocks, end })
    }

    /// Entries that a disk of `size` bytes needs.
    fn count(&self, size: u64) -> Result<u64> {
        let count = size.div_ceil(self.header.block);
        if count > ENTRIES_MAX {
            return Err(Error::usage(format!("The image size is too large for blocks of {} bytes", self.header.block)));
        }
        Ok(count)
    }

    fn grow(&mut self, size: u64) -> Result<()> {
        let (count, old) = (self.count(size)?, self.blocks.table);
        self.clear_tail()?;
        // Entries behind those of the disk may be of anything.
        let used = self.count(self.footer.size)?;
        let table = self.table_of(count, used)?;
        self.end = self.end.max((table.offset + table.count * 4).next_multiple_of(SECTOR));
        self.reach()?;
        let bytes = self.footer.bytes;
        self.write(self.end, &bytes)?;
        Blocks { table, ..self.blocks }.fill(self.machine, used, |_| UNUSED)?;
        if table != old {
            self.write_header(table)?;
        }
        let footer = self.footer.resized(size);
        self.write(FileOffset::ZERO, &footer)?;
        self.write(self.end, &footer)
    }

    /// Clears what the disk's last block holds behind the disk's end.
    fn clear_tail(&self) -> Result<()> {
        let block = self.header.block;
        let inside = self.footer.size % block;
        let entry = self.blocks.at(self.machine, self.footer.size / block)?;
        let Some(offset) = entry.and_then(|entry| self.blocks.place(entry)).filter(|_| inside > 0) else {
            return Ok(());
        };
        let (device, offset) = (self.device, offset + bitmap_len(block) + inside);
        let zero = Step::Zero { device, offset, len: block - inside, unmap: false };
        self.machine.submit(&[zero, Step::Barrier { device }])
    }

    /// A place for a table of `count` entries: where it is, if nothing follows it there, else behind everything else, with a
    /// copy of the first `used` entries.
    fn table_of(&self, count: u64, used: u64) -> Result<Span> {
        let old = self.blocks.table;
        let span = Span { offset: old.offset, count: count.max(old.count) };
        let old_end = (old.offset + old.count * 4).next_multiple_of(SECTOR);
        let mut next = self.next_from(old.offset)?;
        if self.end > old_end {
            next = next.min(self.end);
        }
        if span.offset + span.count * 4 <= next {
            return Ok(span);
        }
        let device = self.device;
        let copy = Step::Copy {
            from: device,
            from_offset: old.offset,
            to: device,
            to_offset: self.end,
            len: used * 4,
            zeroes: instar_image::Zeroes::Copied,
        };
        self.machine.submit(&[copy])?;
        Ok(Span { offset: self.end, count })
    }

    /// Where the first thing begins from `offset` in the file on, the table left out.
    fn next_from(&self, offset: FileOffset) -> Result<FileOffset> {
        let others = self.header.locators().map(|(at, _)| at).chain([self.footer.data_offset]);
        let mut next = others.filter(|at| *at >= offset).fold(FileOffset::MAX, FileOffset::min);
        self.blocks.each(self.machine.source(), |_, entry| {
            let at = self.blocks.place(entry).filter(|at| *at >= offset);
            next = next.min(at.unwrap_or(next));
            Ok(())
        })?;
        Ok(next)
    }

    /// Moves a table that has become shorter to where it was made, if it fits there again.
    fn lower_table(&mut self) -> Result<()> {
        let Span { offset: from_offset, count } = self.blocks.table;
        let to_offset = self.footer.data_offset.saturating_add(DYNAMIC_HEADER as u64);
        let len = count * 4;
        if to_offset >= from_offset || to_offset + len > self.next_from(to_offset)?.min(from_offset) {
            return Ok(());
        }
        let (from, to) = (self.device, self.device);
        self.machine.submit(&[Step::Copy {
            from,
            from_offset,
            to,
            to_offset,
            len,
            zeroes: instar_image::Zeroes::Copied,
        }])?;
        self.blocks.table.offset = to_offset;
        self.write_header(self.blocks.table)
    }

    /// The file has room for a footer at the end.
    fn reach(&self) -> Result<()> {
        let (device, end) = (self.device, self.end + SECTOR);
        if self.machine.stat(device)?.end() < end {
            self.machine.submit(&[Step::SetLength { device, len: end.get() }])?;
        }
        Ok(())
    }

    /// Writes after everything before, and before everything after.
    fn write(&self, offset: FileOffset, data: &[u8]) -> Result<()> {
        let device = self.device;
        let barrier = Step::Barrier { device };
        self.machine.submit(&[barrier, Step::Write { device, offset, data }, barrier])
    }

    fn write_header(&self, table: Span) -> Result<()> {
        let bytes = self.header.with_table(table);
        self.write(self.footer.data_offset, bytes.get(..SECTOR as usize).unwrap_or_default())
    }

    fn shrink(&mut self, size: u64) -> Result<()> {
        let count = self.count(size)?;
        let (mut kept, mut free) = (Vec::new(), Vec::new());
        self.blocks.each(self.machine.source(), |number, entry| {
            if entry == UNUSED {
                return Ok(());
            }
            if (kept.len() + free.len()) as u64 >= check::PLACES_MAX {
                return Err(Error::limit("the disk has too many blocks to be made smaller"));
            }
            if number < count {
                kept.push(entry)
            } else {
                free.push(entry)
            }
            Ok(())
        })?;
        let footer = self.footer.resized(size);
        self.write(FileOffset::ZERO, &footer)?;
        self.blocks.table.count = count;
        self.write_header(self.blocks.table)?;
        self.compress(Packing::new(&kept, free))?;
        self.lower_table()?;
        let table_end = self.blocks.table.offset + count * 4;
        let headers = self.footer.data_offset.saturating_add(DYNAMIC_HEADER as u64);
        let mut end = self.header.locators().fold(table_end.max(headers), |end, (_, locator)| end.max(locator));
        self.blocks.each(self.machine.source(), |_, entry| {
            end = end.max(self.blocks.place(entry).map_or(FileOffset::ZERO, |at| at + self.blocks.block));
            Ok(())
        })?;
        // A locator may lie anywhere.
        self.end = end.next_multiple_of(SECTOR).min(self.end);
        self.write(self.end, &footer)?;
        let device = self.device;
        if self.machine.stat(device)?.block_device {
            return Ok(());
        }
        self.machine.submit(&[Step::SetLength { device, len: (self.end + SECTOR).get() }, Step::Barrier { device }])
    }

    /// Moves the last blocks of the file to where blocks were that the disk no longer has.
    fn compress(&self, mut packing: Packing) -> Result<()> {
        let device = self.device;
        let mut moved: Vec<(u64, u32)> = Vec::new();
        let settle = |moved: &mut Vec<(u64, u32)>| {
            self.machine.submit(&[Step::Barrier { device }])?;
            self.blocks.patch(self.machine, moved)?;
            moved.clear();
            Ok(())
        };
        self.blocks.each(self.machine.source(), |number, entry| {
            let Some(from_offset) = self.blocks.place(entry) else { return Ok(()) };
            let Some(place) = packing.place_for(entry) else { return Ok(()) };
            moved.push((number, place));
            let (to_offset, len) = (block_at(place), self.blocks.block);
            let (from, to) = (device, device);
            self.machine.submit(&[Step::Copy {
                from,
                from_offset,
                to,
                to_offset,
                len,
                zeroes: instar_image::Zeroes::Copied,
            }])?;
            if moved.len() < AT_ONCE { Ok(()) } else { settle(&mut moved) }
        })?;
        settle(&mut moved)
    }
}
