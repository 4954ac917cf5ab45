//! Another size for an image in place, which the stock tool does not do. The header lies in one sector, so that it changes
//! at once; all that it is going to say is stable before.

use alloc::format;

use instar_image::blocks::Blocks;
use instar_image::check::Quiet;
use instar_image::table::Span;
use instar_image::{CheckContext, Error, FileOffset, Machine, NewSize, Preallocation, Resizing, Result, Step};

use crate::ParallelsImage;
use crate::check;
use crate::edit::{end, refuse_damaged};
use crate::header::Header;
use crate::layout::{ENTRIES_MAX, ENTRY, HEADER_LEN, IN_USE, PER_CYLINDER, SECTOR, SECTORS_MAX, field};

impl Resizing for ParallelsImage<'_> {
    fn resize(&self, to: &NewSize) -> Result<()> {
        if to.preallocation != Preallocation::Off {
            return Err(Error::unsupported(format!("Unsupported preallocation mode '{}'", to.preallocation.name())));
        }
        let (machine, device, header) = (self.purpose.machine()?, self.device, &self.header);
        if header.extension != FileOffset::ZERO {
            return Err(Error::unsupported("the image has a format extension, which would not be kept up"));
        }
        let sectors = to.size.div_ceil(SECTOR);
        let entries = sectors.div_ceil(header.cluster / SECTOR);
        let in_sectors = header.entry_unit == SECTOR && header.cluster != SECTOR;
        if sectors > SECTORS_MAX || entries > u64::from(ENTRIES_MAX) || (in_sectors && sectors > u64::from(u32::MAX)) {
            return Err(Error::usage("Image size is too large for this cluster size"));
        }
        refuse_damaged(self, machine)?;
        let report = check::run(header, device, CheckContext { machine, findings: &mut Quiet })?;
        if report.corruptions > u64::from(header.in_use) {
            return Err(Error::corrupt("the image is damaged"));
        }
        let mut bytes = [0; HEADER_LEN];
        machine.read(device, FileOffset::ZERO, &mut bytes)?;
        let blocks = header.blocks(device);
        let mut image = Resized { machine, header, blocks, bytes };
        image.put(field::IN_USE, &IN_USE.to_le_bytes());
        image.write()?;
        let shrinks = sectors * SECTOR < image.blocks.size;
        let data = if shrinks { None } else { image.make_room(entries)? };
        image.put(field::SECTORS, &sectors.to_le_bytes());
        image.put(field::ENTRIES, &(entries as u32).to_le_bytes());
        image.put(field::CYLINDERS, &((sectors / PER_CYLINDER) as u32).to_le_bytes());
        if let Some(data) = data {
            let data = u32::try_from(data / SECTOR).map_err(|_| Error::limit("the file gets too large"))?;
            image.put(field::DATA_OFFSET, &data.to_le_bytes());
        }
        image.write()?;
        image.cut(entries)?;
        image.put(field::IN_USE, &[0; 4]);
        image.write()
    }
}

struct Resized<'a> {
    machine: &'a dyn Machine,
    header: &'a Header,
    blocks: Blocks,
    /// Of the header.
    bytes: [u8; HEADER_LEN],
}

impl Resized<'_> {
    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn write(&self) -> Result<()> {
        let device = self.blocks.device;
        let write = Step::Write { device, offset: FileOffset::ZERO, data: &self.bytes };
        self.machine.submit(&[Step::Barrier { device }, write, Step::Barrier { device }])
    }

    /// Makes the map `entries` long; returns where the clusters begin, if that is another one now.
    fn make_room(&self, entries: u64) -> Result<Option<FileOffset>> {
        let (machine, device) = (self.machine, self.blocks.device);
        self.blocks.clear_tail(machine)?;
        let old = self.blocks.table;
        if entries <= old.count {
            return Ok(None);
        }
        let limit = self.header.align(old.offset + entries * ENTRY);
        let end = end(machine, self.header, &self.blocks)?.max(limit);
        self.blocks.clear_below(machine, limit, end, |_| Ok(()))?;
        let table = Span { offset: old.offset, count: entries };
        Blocks { table, ..self.blocks }.fill(machine, old.count, |_| 0)?;
        if machine.stat(device)?.end() < limit {
            machine.submit(&[Step::SetLength { device, len: limit.get() }])?;
        }
        Ok((limit > self.header.data_at()).then_some(limit))
    }

    /// What the map of `entries` no longer refers to is given back at the end of the file.
    fn cut(&self, entries: u64) -> Result<()> {
        let (machine, device) = (self.machine, self.blocks.device);
        let count = entries.min(self.blocks.table.count);
        if count == self.blocks.table.count || machine.stat(device)?.block_device {
            return Ok(());
        }
        let table = Span { offset: self.blocks.table.offset, count };
        let len = end(machine, self.header, &Blocks { table, ..self.blocks })?.get();
        machine.submit(&[Step::SetLength { device, len }])
    }
}
