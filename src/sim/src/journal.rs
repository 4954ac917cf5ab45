//! The log of everything that was changed, and what a crash at any point of it may leave.

use instar_image::{DeviceId, FileOffset, Step};

use crate::Disk;
use crate::fault::Dice;

/// One change, or a barrier.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Bytes were written.
    Write(DeviceId, FileOffset, Vec<u8>),
    /// A range was zeroed: offset, length.
    Zero(DeviceId, FileOffset, u64),
    /// The length was set.
    Length(DeviceId, u64),
    /// What was changed before on that device is stable.
    Barrier(DeviceId),
    /// It was to be made stable, and that failed: what of it is not stable already may be lost for good.
    Lost(DeviceId),
}

impl Entry {
    fn device(&self) -> DeviceId {
        match self {
            Self::Write(device, ..)
            | Self::Zero(device, ..)
            | Self::Length(device, _)
            | Self::Barrier(device)
            | Self::Lost(device) => *device,
        }
    }

    fn apply(&self, disk: &mut Disk) {
        match self {
            Self::Write(_, offset, bytes) => disk.write(*offset, bytes),
            Self::Zero(_, offset, len) => disk.zero(*offset, *len),
            Self::Length(_, len) => disk.set_len(*len),
            Self::Barrier(_) | Self::Lost(_) => {}
        }
    }
}

/// All changes since the recording began, and the devices as they were then.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    pub(crate) before: Vec<Disk>,
    pub(crate) entries: Vec<Entry>,
}

impl Journal {
    pub(crate) fn add(&mut self, step: &Step<'_>) {
        self.entries.push(match *step {
            Step::Write { device, offset, data } => Entry::Write(device, offset, data.to_vec()),
            Step::Zero { device, offset, len, .. } => Entry::Zero(device, offset, len),
            Step::SetLength { device, len } => Entry::Length(device, len),
            Step::Barrier { device } => Entry::Barrier(device),
            // Copies are recorded as what they wrote; the others change nothing that can be read.
            Step::Copy { .. } | Step::Allocate { .. } | Step::Discard { .. } => return,
        });
    }

    pub(crate) fn lose(&mut self, device: DeviceId) {
        self.entries.push(Entry::Lost(device));
    }

    /// How many changes and barriers there were.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Shows every state that a crash may leave: for every number of entries that were reached, all of them done,
    /// and `subsets` times a random part of those that no barrier of their device has made stable. Where nothing is
    /// in flight there is one state.
    pub fn cuts(&self, subsets: u32, seed: u64, mut show: impl FnMut(&str, &[Disk])) {
        let mut dice = Dice(seed);
        let mut stable = self.before.clone();
        let mut flying: Vec<&Entry> = Vec::new();
        show("before the first step", &stable);
        for (number, entry) in self.entries.iter().enumerate() {
            if let Entry::Barrier(device) = entry {
                flying.retain(|flown| {
                    let done = flown.device() == *device;
                    if done {
                        flown.apply(&mut stable[device.0 as usize]);
                    }
                    !done
                });
            } else {
                flying.push(entry);
            }
            for subset in 0..=subsets {
                let mut disks = stable.clone();
                for flown in &flying {
                    if subset == 0 || dice.coin() {
                        flown.apply(&mut disks[flown.device().0 as usize]);
                    }
                }
                let part = if subset == 0 { "all".to_string() } else { format!("part {subset}") };
                show(&format!("after step {number} of {}, {part} of what is in flight", self.len()), &disks);
                if flying.is_empty() {
                    break;
                }
            }
        }
    }

    /// Shows states that a crash after all of it may leave: `subsets` times what is stable and a random part of the rest.
    pub fn ends(&self, subsets: u32, seed: u64, mut show: impl FnMut(&str, &[Disk])) {
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Fate {
            Flying,
            Stable,
            Lost,
        }
        let mut fates = vec![Fate::Flying; self.len()];
        for (number, entry) in self.entries.iter().enumerate() {
            let fate = match entry {
                Entry::Barrier(_) => Fate::Stable,
                Entry::Lost(_) => Fate::Lost,
                _ => continue,
            };
            let earlier = fates.iter_mut().zip(&self.entries).take(number);
            for (flown, _) in earlier.filter(|(f, e)| **f == Fate::Flying && e.device() == entry.device()) {
                *flown = fate;
            }
        }
        let mut dice = Dice(seed);
        for subset in 1..=subsets {
            let mut disks = self.before.clone();
            for (entry, fate) in self.entries.iter().zip(&fates) {
                if *fate == Fate::Stable || dice.coin() {
                    entry.apply(&mut disks[entry.device().0 as usize]);
                }
            }
            show(&format!("after a crash at the end, part {subset} of what is in flight"), &disks);
        }
    }
}
