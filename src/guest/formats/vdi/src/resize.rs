//! Another size for an image in place, which the stock tool does not do.
//!
//! The header lies in one sector, so that it changes at once; all that it is going to say is stable before. Of a run that
//! is cut the header may count more blocks than the map refers to, as in [`crate::edit`].

use alloc::format;
use alloc::vec::Vec;

use instar_image::blocks::Blocks;
use instar_image::table::Span;
use instar_image::{
    CheckContext, Error, FileOffset, Findings, Machine, NewSize, Preallocation, Resizing, Result, Step,
};

use crate::VdiImage;
use crate::check;
use crate::edit::used;
use crate::header::Header;
use crate::layout::{BLOCK, ENTRY, HEADER_LEN, SECTOR, SIZE_MAX, TYPE_DYNAMIC, UNALLOCATED, field, is_absent};

/// Entries that are changed at once.
const AT_ONCE: usize = 1 << 15;

/// Most blocks of a file (instar): a bit for each has to fit into the guest's memory.
const USED_MAX: u64 = 1 << 28;

impl Resizing for VdiImage<'_> {
    fn resize(&self, to: &NewSize) -> Result<()> {
        if to.preallocation != Preallocation::Off {
            return Err(Error::unsupported(format!("Unsupported preallocation mode '{}'", to.preallocation.name())));
        }
        let size = to.size.next_multiple_of(SECTOR);
        if size > SIZE_MAX {
            return Err(Error::usage(format!("The image size is too large for file format 'vdi': at most {SIZE_MAX}")));
        }
        let (machine, device, header) = (self.purpose.machine()?, self.device, &self.header);
        header.check_order()?;
        let mut shared = Shared(0);
        check::run(header, device, CheckContext { machine, findings: &mut shared })?;
        if shared.0 > 0 {
            return Err(Error::corrupt("blocks of the image are used twice"));
        }
        let blocks = header.blocks(device);
        let used = used(machine, &blocks, header)?;
        if used > USED_MAX {
            return Err(Error::limit("the file has too many blocks"));
        }
        let mut head = Head { bytes: [0; HEADER_LEN] };
        machine.read(device, FileOffset::ZERO, &mut head.bytes)?;
        let mut image = Resized { machine, header, blocks, used, head };
        if size < image.blocks.size { image.shrink(size) } else { image.grow(size) }
    }
}

/// Counts the blocks that are used twice.
struct Shared(u64);

impl Findings for Shared {
    fn line(&mut self, text: &str) -> Result<()> {
        self.0 += u64::from(text.contains("also used by"));
        Ok(())
    }

    fn error(&mut self, _text: &str) -> Result<()> {
        Ok(())
    }
}

/// The header's bytes.
struct Head {
    bytes: [u8; HEADER_LEN],
}

impl Head {
    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn put_u32(&mut self, at: usize, value: u64) -> Result<()> {
        let value = u32::try_from(value).map_err(|_| Error::limit("the file gets too large"))?;
        self.put(at, &value.to_le_bytes());
        Ok(())
    }

    fn write(&self, machine: &dyn Machine, blocks: &Blocks) -> Result<()> {
        let device = blocks.device;
        let write = Step::Write { device, offset: FileOffset::ZERO, data: &self.bytes };
        machine.submit(&[Step::Barrier { device }, write, Step::Barrier { device }])
    }
}

struct Resized<'a> {
    machine: &'a dyn Machine,
    header: &'a Header,
    blocks: Blocks,
    /// Blocks of the file.
    used: u64,
    head: Head,
}

impl Resized<'_> {
    fn grow(&mut self, size: u64) -> Result<()> {
        let (machine, count) = (self.machine, size.div_ceil(BLOCK));
        self.blocks.clear_tail(machine)?;
        let len = (count * ENTRY).next_multiple_of(SECTOR);
        let old = self.blocks.table;
        let mut dropped = 0;
        if old.offset.saturating_add(len) <= self.header.data {
            let table = Span { offset: old.offset, count };
            Blocks { table, ..self.blocks }.fill(machine, old.count, |_| UNALLOCATED)?;
        } else {
            // The map goes where the first blocks were, which go to the end; the others get lower numbers.
            dropped = len.div_ceil(BLOCK);
            let end = self.header.block_at(0).saturating_add(self.used.max(dropped) * BLOCK);
            let limit = self.header.data.saturating_add(dropped * BLOCK);
            let end = self.blocks.clear_below(machine, limit, end, |end| {
                let used = end.saturating_since(self.header.data) / BLOCK;
                self.head.put_u32(field::ALLOCATED, used)?;
                self.head.write(machine, &self.blocks)
            })?;
            self.used = end.saturating_since(self.header.data) / BLOCK;
            self.renumber(count, dropped)?;
            self.head.put_u32(field::MAP_OFFSET, self.header.data.get())?;
            self.head.put_u32(field::DATA_OFFSET, limit.get())?;
        }
        if count > old.count {
            // Not every block is there now.
            self.head.put(field::TYPE, &TYPE_DYNAMIC.to_le_bytes());
        }
        self.head.put(field::DISK_SIZE, &size.to_le_bytes());
        self.head.put_u32(field::BLOCKS, count.max(old.count))?;
        self.head.put_u32(field::ALLOCATED, self.used - dropped)?;
        self.head.write(machine, &self.blocks)
    }

    /// Writes a map of `count` entries where the first block was, whose numbers are by `dropped` lower.
    fn renumber(&self, count: u64, dropped: u64) -> Result<()> {
        let table = Span { offset: self.header.data, count };
        let moved = Blocks { table, ..self.blocks };
        let mut entries: Vec<(u64, u32)> = Vec::new();
        self.blocks.each(self.machine.source(), |number, entry| {
            let entry = if is_absent(entry) { entry } else { entry - (dropped as u32).min(entry) };
            entries.push((number, entry));
            if entries.len() == AT_ONCE {
                moved.patch(self.machine, &entries)?;
                entries.clear();
            }
            Ok(())
        })?;
        moved.patch(self.machine, &entries)?;
        moved.fill(self.machine, self.blocks.table.count, |_| UNALLOCATED)
    }

    fn shrink(&mut self, size: u64) -> Result<()> {
        let machine = self.machine;
        let count = size.div_ceil(BLOCK);
        self.head.put(field::DISK_SIZE, &size.to_le_bytes());
        self.head.write(machine, &self.blocks)?;
        self.forget_from(count)?;
        self.fill_holes()?;
        self.head.put_u32(field::BLOCKS, count)?;
        self.head.put_u32(field::ALLOCATED, self.used)?;
        self.head.write(machine, &self.blocks)?;
        let len = self.header.data.saturating_add(self.used * BLOCK).get();
        if !machine.stat(self.blocks.device)?.block_device {
            let device = self.blocks.device;
            machine.submit(&[Step::SetLength { device, len }, Step::Barrier { device }])?;
        }
        Ok(())
    }

    /// The map no longer refers to blocks of the disk from number `first` on.
    fn forget_from(&self, first: u64) -> Result<()> {
        let device = self.blocks.device;
        self.blocks.fill(self.machine, first, |_| UNALLOCATED)?;
        self.machine.submit(&[Step::Barrier { device }])
    }

    /// Moves the last blocks to where none is, so that they are as many as there are numbers.
    fn fill_holes(&mut self) -> Result<()> {
        let mut bits = alloc::vec![0u64; self.used.div_ceil(64) as usize];
        let mut count = 0;
        self.blocks.each(self.machine.source(), |_, entry| {
            if let Some(word) = bits.get_mut((entry / 64) as usize).filter(|_| !is_absent(entry)) {
                *word |= 1 << (entry % 64);
                count += 1;
            }
            Ok(())
        })?;
        let device = self.blocks.device;
        let mut hole = 0;
        loop {
            let mut moved: Vec<(u64, u32)> = Vec::new();
            self.blocks.each(self.machine.source(), |number, entry| {
                if !is_absent(entry) && u64::from(entry) >= count && moved.len() < AT_ONCE {
                    moved.push((number, entry));
                }
                Ok(())
            })?;
            if moved.is_empty() {
                self.used = count;
                return Ok(());
            }
            for (_, entry) in &mut moved {
                while bits.get(hole / 64).is_some_and(|word| word & (1 << (hole % 64)) != 0) {
                    hole += 1;
                }
                let from_offset = self.header.block_at(*entry);
                *entry = hole as u32;
                hole += 1;
                let to_offset = self.header.block_at(*entry);
                let (len, zeroes) = (BLOCK, instar_image::Zeroes::Copied);
                self.machine.submit(&[Step::Copy { from: device, from_offset, to: device, to_offset, len, zeroes }])?;
            }
            self.machine.submit(&[Step::Barrier { device }])?;
            self.blocks.patch(self.machine, &moved)?;
        }
    }
}
