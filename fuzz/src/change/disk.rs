//! A disk that is used: read, written, made zeroes, discarded and flushed at random, and what was written shows at once.

use instar_image::{Changes, Machine as _, Purpose, Version};
use instar_ops::disk::WriteDisk;
use instar_ops::open::{ImageSpec, Opening};
use instar_sim::Machine;

use super::bitmaps::Touched;
use super::numbers::Numbers;
use super::world::{TOP, World};

/// Most requests of one use.
const REQUESTS: u64 = 24;

impl World {
    /// Uses the image's disk for a while.
    pub fn requests(&mut self, numbers: &mut Numbers<'_>) {
        let machine = self.machine();
        self.touched = Touched::Within(Vec::new());
        let used = self.requests_on(&machine, numbers);
        self.take_back(&machine);
        if let (Err(error), Some(_)) = (used, &self.shows) {
            panic!("{:?}: {}", self.kind, error.message);
        }
    }

    fn requests_on(&mut self, machine: &Machine, numbers: &mut Numbers<'_>) -> instar_image::Result<()> {
        let options = self.kind.key.map(|key| (key.to_string(), "sec0".to_string())).into_iter().collect();
        let device = machine.named().into_iter().find(|(name, _)| name == TOP.as_bytes()).expect("it was made").1;
        let opened = ImageSpec::opened(device, TOP.into(), TOP.into(), Some(self.kind.format.into()));
        let spec = ImageSpec { options, ..opened };
        let opening = Opening { machine, version: Version::default() };
        let purpose = |depth, _: &[u8]| if depth == 0 { Purpose::Write(machine) } else { Purpose::Read };
        let mut chain = opening.chain(&spec, &purpose)?;
        let Some(top) = chain.layers.first_mut() else { return Ok(()) };
        top.image.begin(&Changes { content: true, ..Changes::default() }).expect("it can be changed")?;
        machine.seal()?;
        let disk = WriteDisk::new(machine, &chain)?;
        for _ in 0..=numbers.or_zero(REQUESTS) {
            self.request(&disk, numbers)?;
        }
        disk.finish()
    }

    fn request(&mut self, disk: &WriteDisk<'_>, numbers: &mut Numbers<'_>) -> instar_image::Result<()> {
        // Nothing is known of a damaged one.
        let mut none = vec![0; 1 << 20];
        let model = self.shows.as_mut().unwrap_or(&mut none);
        let unit = [1, 512, 4096, 65536][numbers.or_zero(4) as usize];
        let size = model.len() as u64;
        let start = numbers.or_zero(size) / unit * unit;
        let bits = [8, 13, 18][numbers.or_zero(3) as usize];
        let len = (1 + numbers.or_zero(1 << bits)).next_multiple_of(unit).min(size - start);
        let range = start as usize..(start + len) as usize;
        let what = numbers.or_zero(8);
        if let (1 | 2 | 5.., Touched::Within(ranges)) = (what, &mut self.touched) {
            ranges.push(start..start + len);
        }
        match what {
            0 => disk.flush()?,
            1 => {
                disk.zero(start, len)?;
                model[range.clone()].fill(0);
            }
            2 => {
                disk.discard(start, len)?;
                // It shows anything, as far as whole units go; the rest is as it was.
                disk.read(start, &mut model[range.clone()])?;
            }
            3 | 4 => {}
            value => {
                let data: Vec<u8> = (0..len).map(|i| (i as u8 / 64).wrapping_add(value as u8)).collect();
                disk.write([(start, data.as_slice())].into_iter())?;
                model[range.clone()].copy_from_slice(&data);
            }
        }
        // More than was touched: what lies beside it is as it was.
        let around = range.start.saturating_sub(5000)..(range.end + 5000).min(size as usize);
        let mut seen = vec![0; around.len()];
        disk.read(around.start as u64, &mut seen)?;
        assert!(
            seen == model[around.clone()] || self.shows.is_none(),
            "{:?}: {around:?} shows something else after a request for {range:?}",
            self.kind
        );
        Ok(())
    }
}
