//! The raw format: the file's bytes are the disk's.
//!
//! It has no metadata, so nothing in it is believed. What it holds (a partition table, an ISO 9660 file
//! system) is no format to `qemu-img`; [`content`] tells it where somebody asks.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod content;
mod part;
mod protocol;
mod write;

use alloc::boxed::Box;

use instar_image::fixed::FixedEditor;
use instar_image::options::OptionSpec;
use instar_image::runs::RunMap;
use instar_image::{
    Changes, Creator, DeviceId, Editor, Extent, Format, Image, OpenContext, Place, Probe, Purpose, Quirk, Resizing,
    Result, SafetyCheck,
};

use crate::part::Part;
pub use crate::protocol::{FILE, HOST_CDROM, HOST_DEVICE, Protocol};

/// QEMU counts files in sectors of this many bytes: a shorter last one is filled up with zeroes.
const SECTOR: u64 = 512;

/// The format.
pub struct Raw;

impl Format for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    /// Everything is raw, if it is nothing else.
    fn probe(&self, _probe: &Probe<'_>) -> u32 {
        1
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        let stat = cx.source.stat(cx.device)?;
        let part = Part::of(stat.len, cx.options)?;
        let map = RunMap::new(cx.source, cx.device, stat.len);
        let is_cut = cx.options.iter().any(|(key, _)| key == "size");
        Ok(Box::new(RawImage { device: cx.device, purpose: cx.purpose, part, is_cut, map, editor: None }))
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        write::OPTIONS
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(&write::RawCreator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // Every file is a raw image.
            Quirk::Fallback,
            // A reader sees some state of each sector, as a machine would.
            Quirk::SharedWithWriters,
            // The driver passes the question on to its file.
            Quirk::ClusterSizeOfFile,
            // So too where data is.
            Quirk::StatusOfFile,
        ]
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[SafetyCheck::NoneNeeded("it has no metadata: no table, no name of another file")]
    }
}

struct RawImage<'a> {
    device: DeviceId,
    purpose: Purpose<'a>,
    part: Part,
    /// The user says how long it is.
    is_cut: bool,
    map: RunMap<'a>,
    editor: Option<FixedEditor<'a>>,
}

impl Image for RawImage<'_> {
    fn virtual_size(&self) -> u64 {
        self.part.size
    }

    fn extent(&self, at: u64, max: u64) -> Result<Extent> {
        let offset = self.part.offset.saturating_add(at);
        let run = if self.editor.is_some() { self.map.run_now(offset)? } else { self.map.run(offset)? };
        let left = self.part.size.saturating_sub(at);
        let place = if run.data {
            Place::Data { device: self.device, offset }
        } else {
            Place::Zero { at: Some((self.device, offset)) }
        };
        Ok(Extent { at, len: run.len.min(left).min(max), place })
    }

    fn begin(&mut self, _changes: &Changes<'_>) -> Option<Result<()>> {
        let (device, base) = (self.device, self.part.offset);
        Some(self.purpose.machine().map(|machine| self.editor = Some(FixedEditor { machine, device, base })))
    }

    fn editor(&self) -> Option<&dyn Editor> {
        self.editor.as_ref().map(|editor| editor as &dyn Editor)
    }

    fn resizing(&self) -> Option<&dyn Resizing> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use instar_image::FileOffset;
    use instar_image::{Machine, Version};
    use instar_sim::Disk;

    fn extents(machine: &instar_sim::Machine, device: DeviceId, step: u64) -> (u64, Vec<(u64, u64, bool)>) {
        let cx = OpenContext::alone(machine.source(), device, b"disk", Version::default(), Purpose::Read);
        let image = Raw.open(cx).expect("raw opens");
        let mut found = Vec::new();
        let mut at = 0;
        while at < image.virtual_size() {
            let extent = image.extent(at, step).expect("in range");
            assert_eq!(extent.at, at);
            assert!(extent.len > 0 && extent.len <= step);
            found.push((
                at,
                extent.len,
                matches!(extent.place, Place::Data { offset, .. } if offset == FileOffset::new(at)),
            ));
            at += extent.len;
        }
        (image.virtual_size(), found)
    }

    #[test]
    fn the_size_is_whole_sectors() {
        let machine = instar_sim::Machine::new();
        let device = machine.add(vec![1; 1000]);
        assert_eq!(extents(&machine, device, u64::MAX), (1024, vec![(0, 1000, true), (1000, 24, false)]));
    }

    #[test]
    fn holes_are_zeroes() {
        let machine = instar_sim::Machine::new();
        let mut disk = Disk::default();
        disk.write(FileOffset::new(8192), &[1; 4096]);
        disk.set_len(1 << 30);
        let device = machine.add_disk(disk);
        let (_, found) = extents(&machine, device, u64::MAX);
        assert_eq!(found, vec![(0, 8192, false), (8192, 4096, true), (12288, (1 << 30) - 12288, false)]);
        let (_, found) = extents(&machine, device, 1 << 28);
        assert_eq!(found.iter().map(|f| f.1).sum::<u64>(), 1 << 30);
    }

    #[test]
    fn more_runs_than_one_answer_holds() {
        let machine = instar_sim::Machine::new();
        let mut disk = Disk::default();
        for i in 0..500 {
            disk.write(FileOffset::new(i * 8192), &[1; 4096]);
        }
        let device = machine.add_disk(disk);
        let (_, found) = extents(&machine, device, u64::MAX);
        assert_eq!(found.len(), 999);
        assert!(found.iter().all(|(at, len, data)| *len == 4096 && *data == (at % 8192 == 0)));
    }
}
