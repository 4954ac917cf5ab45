//! Another size for an image in place, which the stock tool does not do.
//!
//! The size lies in one sector, as what changes of the region table does, so that each changes at once; all that they are
//! going to say is stable before. The log is not needed for that, and stays empty.

use alloc::vec::Vec;

use instar_image::check::Quiet;
use instar_image::packing::Packing;
use instar_image::sealed::{self, Placed};
use instar_image::table::{Span, TableCache};
use instar_image::{
    CheckContext, DeviceId, Error, FileOffset, Machine, NewSize, Preallocation, Resizing, Result, Step,
};

use crate::VhdxImage;
use crate::bat::{Entry, Geometry};
use crate::check;
use crate::edit::refuse;
use crate::layout::{ALIGNMENT, SIZE_MAX, state};
use crate::regions::{Range, move_bat};

/// Entries that are changed at once.
const AT_ONCE: u64 = 1 << 16;

impl Resizing for VhdxImage<'_> {
    fn resize(&self, to: &NewSize) -> Result<()> {
        let (machine, device, image, header) = (self.writable()?, self.view.device, self, &self.header);
        let size = to.size.next_multiple_of(image.metadata.sector);
        if size > SIZE_MAX {
            return Err(Error::usage("Image size too large; max of 64TB"));
        }
        if size == image.metadata.size {
            return Ok(());
        }
        if image.geometry.differencing {
            return Err(refuse("it is a differencing disk, which is as long as its parent"));
        }
        let mut findings = Quiet;
        let checking = CheckContext { machine, findings: &mut findings };
        if check::check(&image.view, &image.geometry, &image.regions, checking)?.corruptions > 0 {
            return Err(Error::corrupt("the image is damaged: instar check tells where"));
        }
        if !image.regions.metadata.holds(image.metadata.size_at, 8) {
            return Err(Error::corrupt("the disk's size lies outside of the metadata"));
        }
        if image.metadata.size_at % 512 > 504 {
            return Err(refuse("its size lies in two sectors"));
        }
        let old = image.geometry;
        let new = Geometry { size, blocks: size.div_ceil(old.block), ..old };
        let disk = Disk { machine, device, image, old, new };
        if size < old.size {
            header.renew(machine, device, true)?;
            return disk.shrink();
        }
        disk.grow(to.preallocation, || header.renew(machine, device, true))
    }
}

struct Disk<'s, 'a> {
    machine: &'s dyn Machine,
    device: DeviceId,
    image: &'s VhdxImage<'a>,
    old: Geometry,
    new: Geometry,
}

impl Disk<'_, '_> {
    /// `renew` is called as soon as nothing can be missing any more.
    fn grow(mut self, mode: Preallocation, renew: impl FnOnce() -> Result<()>) -> Result<()> {
        let (machine, device, old) = (self.machine, self.device, self.old);
        let used = old.entries();
        // Room: for the table, and for the blocks.
        let table_at = self.end(&old)?;
        let table_len = self.new.entries_of_region().saturating_mul(8).next_multiple_of(ALIGNMENT);
        let moves = table_len > self.image.regions.bat.len;
        if moves && u32::try_from(table_len).is_err() {
            return Err(Error::limit("the blocks' table gets too large"));
        }
        let blocks_at = if moves { table_at.saturating_add(table_len) } else { table_at };
        let added = if self.image.metadata.leaves_allocated || mode != Preallocation::Off {
            self.new.blocks - old.blocks
        } else {
            0
        };
        let end = added.checked_mul(old.block).and_then(|len| blocks_at.checked_add(len));
        let end =
            end.filter(|end| *end <= FileOffset::END_MAX).ok_or_else(|| Error::limit("the file gets too large"))?;
        self.reserve(blocks_at, end, mode)?;
        renew()?;
        self.clear_tail()?;
        if moves {
            let (from, to, len) = (device, device, used * 8);
            if len > 0 {
                let from_offset = old.bat;
                machine.submit(&[Step::Copy {
                    from,
                    from_offset,
                    to,
                    to_offset: table_at,
                    len,
                    zeroes: instar_image::Zeroes::Copied,
                }])?;
            }
            self.new.bat = table_at;
        }
        // Entries behind those of the disk may be of anything, and so may a device that is no file.
        let end = if moves { table_len / 8 } else { self.new.entries() };
        self.clear(used, end)?;
        if added > 0 {
            machine.submit(&[Step::Barrier { device }])?;
            self.fill(used, self.new.entries(), |index| {
                let block = index - index / (old.ratio + 1);
                let absent = self.new.is_bitmap(index) || block >= self.new.blocks;
                let place = || blocks_at + (block - old.blocks) * old.block;
                if absent { 0 } else { Entry::at(place(), state::FULLY_PRESENT).0 }
            })?;
        }
        if moves {
            move_bat(machine, device, Range { at: table_at, len: table_len })?;
        }
        self.write_size()
    }

    /// Makes the file end at `end`, and has the file system reserve the new blocks if that is asked for.
    fn reserve(&self, blocks_at: FileOffset, end: FileOffset, mode: Preallocation) -> Result<()> {
        let (machine, device) = (self.machine, self.device);
        let len = machine.stat(device)?.len;
        if len < end.get() {
            machine.submit(&[Step::SetLength { device, len: end.get() }])?;
        }
        if !matches!(mode, Preallocation::Falloc | Preallocation::Full) {
            return Ok(());
        }
        let full = mode == Preallocation::Full;
        let allocate = Step::Allocate { device, offset: blocks_at, len: end - blocks_at, full };
        machine.submit(&[allocate]).or_else(|error| {
            machine.submit(&[Step::SetLength { device, len }])?;
            Err(error.context("Could not preallocate new data"))
        })
    }

    /// The place behind everything in the file, or the disk's last block, where a block can be.
    fn end(&self, geometry: &Geometry) -> Result<FileOffset> {
        let mut end = self.machine.stat(self.device)?.end().max(self.image.regions.end());
        self.each(geometry, |_, offset| {
            end = end.max(offset.saturating_add(geometry.block));
            Ok(())
        })?;
        end.checked_next_multiple_of(ALIGNMENT).ok_or_else(|| Error::limit("the file gets too large"))
    }

    /// Calls `each` for every block of a disk that has a place: number of its entry, and where it is.
    fn each(&self, geometry: &Geometry, mut each: impl FnMut(u64, FileOffset) -> Result<()>) -> Result<()> {
        let table = Span { offset: geometry.bat, count: geometry.entries() };
        let mut pieces = TableCache::<8>::new(self.machine.source(), self.device);
        let mut index = 0;
        while index < table.count {
            let entries = pieces.from(table, index)?;
            for (entry, index) in entries.iter().zip(index..) {
                let entry = Entry(u64::from_le_bytes(*entry));
                if entry.state() == state::FULLY_PRESENT && !geometry.is_bitmap(index) {
                    each(index, entry.offset())?;
                }
            }
            index += entries.len().max(1) as u64;
        }
        Ok(())
    }

    /// Clears what the disk's last block holds behind the disk's end.
    fn clear_tail(&self) -> Result<()> {
        let Geometry { block, size, .. } = self.old;
        let inside = size % block;
        if inside == 0 {
            return Ok(());
        }
        let table = Span { offset: self.old.bat, count: self.old.entries() };
        let entry =
            TableCache::<8>::new(self.machine.source(), self.device).entry(table, self.old.payload(size / block))?;
        let entry = Entry(entry.map_or(0, u64::from_le_bytes));
        if entry.state() != state::FULLY_PRESENT {
            return Ok(());
        }
        let (device, offset) = (self.device, entry.offset().saturating_add(inside));
        let zero = Step::Zero { device, offset, len: block - inside, unmap: false };
        self.machine.submit(&[zero, Step::Barrier { device }])
    }

    /// Makes the entries from number `from` to number `to` those of no block.
    fn clear(&self, from: u64, to: u64) -> Result<()> {
        let (device, offset, len) = (self.device, self.new.bat + from * 8, to.saturating_sub(from) * 8);
        let zero = Step::Zero { device, offset, len, unmap: true };
        if len > 0 { self.machine.submit(&[zero]) } else { Ok(()) }
    }

    /// Writes the entries from number `from` to number `to`.
    fn fill(&self, from: u64, to: u64, value: impl Fn(u64) -> u64) -> Result<()> {
        let mut index = from;
        while index < to {
            let end = to.min(index + AT_ONCE);
            let data: Vec<u8> = (index..end).flat_map(|n| value(n).to_le_bytes()).collect();
            let offset = self.new.bat + index * 8;
            self.machine.submit(&[Step::Write { device: self.device, offset, data: &data }])?;
            index = end;
        }
        Ok(())
    }

    fn write_size(&self) -> Result<()> {
        let device = self.device;
        let data = self.new.size.to_le_bytes();
        let write = Step::Write { device, offset: self.image.metadata.size_at, data: &data };
        self.machine.submit(&[Step::Barrier { device }, write, Step::Barrier { device }])
    }

    fn shrink(&self) -> Result<()> {
        let (machine, device) = (self.machine, self.device);
        let (mut kept, mut free) = (Vec::new(), Vec::new());
        let mut too_many = false;
        let entries = self.new.entries();
        self.each(&self.old, |index, offset| {
            let room = kept.len() + free.len() < check::PLACES_MAX;
            let list = if index < entries { &mut kept } else { &mut free };
            match u32::try_from(offset / ALIGNMENT) {
                Ok(place) if room => list.push(place),
                _ => too_many = true,
            }
            Ok(())
        })?;
        // The last block may reach past the end of the file, as far as the disk does not.
        let end = self.end(&self.old)?;
        if machine.stat(device)?.end() < end {
            machine.submit(&[Step::SetLength { device, len: end.get() }])?;
        }
        self.write_size()?;
        self.clear(entries, self.old.entries())?;
        machine.submit(&[Step::Barrier { device }])?;
        // That no two of them share a place is known of so many only; the others stay where they are.
        if !too_many {
            self.pack(Packing::new(&kept, free))?;
        }
        if machine.stat(device)?.block_device {
            return Ok(());
        }
        let mut end = self.image.regions.end();
        self.each(&self.new, |_, offset| {
            end = end.max(offset.saturating_add(self.new.block));
            Ok(())
        })?;
        if end < machine.stat(device)?.end() {
            machine.submit(&[Step::SetLength { device, len: end.get() }, Step::Barrier { device }])?;
        }
        Ok(())
    }

    /// Moves the last blocks of the file to where blocks were that the disk no longer has.
    fn pack(&self, mut packing: Packing) -> Result<()> {
        let device = self.device;
        let mut moved: Vec<Placed<'_>> = Vec::new();
        let settle = |moved: &mut Vec<Placed<'_>>| {
            let barrier = || [Placed::Step(Step::Barrier { device })];
            sealed::submit(self.machine, barrier().into_iter().chain(moved.drain(..)).chain(barrier()), None)
        };
        self.each(&self.new, |index, from_offset| {
            let place = u32::try_from(from_offset / ALIGNMENT).ok().and_then(|place| packing.place_for(place));
            let Some(to_offset) = place.map(|place| FileOffset::new(u64::from(place) * ALIGNMENT)) else {
                return Ok(());
            };
            let (from, to, len) = (device, device, self.new.block);
            self.machine.submit(&[Step::Copy {
                from,
                from_offset,
                to,
                to_offset,
                len,
                zeroes: instar_image::Zeroes::Copied,
            }])?;
            let data = Entry::at(to_offset, state::FULLY_PRESENT).0.to_le_bytes().to_vec();
            moved.push(Placed::Owned { device, offset: self.new.bat + index * 8, data });
            if (moved.len() as u64) < AT_ONCE { Ok(()) } else { settle(&mut moved) }
        })?;
        settle(&mut moved)
    }
}
