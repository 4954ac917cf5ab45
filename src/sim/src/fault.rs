//! What goes wrong in a run: named by a kind and a number, so that it goes wrong in the same way again.

use instar_image::{Error, Kind};

const EIO: u32 = 5;
const ENOSPC: u32 = 28;
/// So much after a fault, and nobody has noticed it: the operation goes on for ever.
const PATIENCE: u64 = 1 << 20;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read brings nothing: EIO.
    Read,
    /// A change is not made: EIO.
    Write,
    /// A change that needs room has none, and no later one has: ENOSPC. What is there can be overwritten.
    NoSpace,
    /// What was written before is not made stable, and no later flush makes up for it: EIO.
    Flush,
    /// A part of a change is made: EIO.
    Torn,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::NoSpace, Self::Flush, Self::Torn];
}

/// One fault of a run.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    /// Its kind.
    pub fault: Fault,
    /// How many events that could have been hit go well before it.
    pub number: u64,
    /// It is no accident: whatever could be hit by it later is hit too. After a torn change nothing works any more.
    pub lasting: bool,
    /// Decides what a torn change leaves, and what happens beside the step that fails.
    pub seed: u64,
    /// A torn change is cut at multiples of so many bytes of it.
    pub unit: u64,
}

/// What may happen to an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Read,
    /// `grows`: it needs room that the device does not have yet.
    Change {
        grows: bool,
    },
    Flush,
}

impl Event {
    fn is_hit_by(self, fault: Fault) -> bool {
        match fault {
            Fault::Read => self == Self::Read,
            Fault::Write | Fault::Torn => matches!(self, Self::Change { .. }),
            Fault::NoSpace => self == Self::Change { grows: true },
            Fault::Flush => self == Self::Flush,
        }
    }
}

/// A failure, and how much of the change is made nevertheless, in 256ths.
pub(crate) struct Failure {
    pub error: Error,
    pub made: u64,
    /// See [`Injection::unit`].
    pub unit: u64,
}

impl Failure {
    /// Of `len` bytes, those that arrive.
    pub fn part(&self, len: u64) -> u64 {
        (len / 256 * self.made + len % 256 * self.made / 256) / self.unit * self.unit
    }
}

/// A small generator of numbers, for reproducible choices.
#[derive(Debug, Default)]
pub(crate) struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn coin(&mut self) -> bool {
        self.next() >> 30 != 0
    }
}

/// What has happened so far, and what is to go wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Events that each kind of fault could have hit.
    seen: [u64; Fault::ALL.len()],
    injection: Option<Injection>,
    /// How many events have been hit.
    hits: u64,
    /// Events since the first hit.
    after: u64,
    pub dice: Dice,
}

impl Faults {
    pub fn inject(&mut self, injection: Injection) {
        *self = Self { injection: Some(injection), dice: Dice(injection.seed), ..Self::default() };
    }

    pub const fn hits(&self) -> u64 {
        self.hits
    }

    pub const fn seen(&self, fault: Fault) -> u64 {
        self.seen[fault as usize]
    }

    /// What becomes of it: `None`: it goes well.
    ///
    /// # Panics
    /// When an operation goes on and on after a fault.
    pub fn meet(&mut self, event: Event) -> Option<Failure> {
        for fault in Fault::ALL {
            self.seen[fault as usize] += u64::from(event.is_hit_by(fault));
        }
        let Injection { fault, number, lasting, unit, .. } = self.injection?;
        self.after += u64::from(self.hits > 0);
        assert!(self.after < PATIENCE, "the operation goes on for ever after {fault:?} {number}");
        let dead = fault == Fault::Torn && lasting && self.hits > 0;
        let hit = event.is_hit_by(fault)
            && match self.seen(fault).cmp(&(number + 1)) {
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Equal => true,
                std::cmp::Ordering::Greater => lasting || fault == Fault::NoSpace,
            };
        if !hit && !dead {
            return None;
        }
        self.hits += 1;
        let partly = !dead && matches!(fault, Fault::Torn | Fault::NoSpace);
        let made = if partly { self.dice.next() % 256 } else { 0 };
        let error = match fault {
            Fault::NoSpace => Error::new(Kind::Io(ENOSPC), "No space left on device"),
            _ => Error::new(Kind::Io(EIO), "Input/output error"),
        };
        Some(Failure { error, made, unit })
    }
}

#[cfg(test)]
mod tests {
    use instar_image::{DeviceId, FileOffset, Sink, Source, Step};

    use super::*;
    use crate::Machine;

    fn machine(fault: Fault, number: u64, lasting: bool) -> (Machine, DeviceId) {
        let machine = Machine::new();
        let device = machine.add_writable([1; 8192]);
        machine.record();
        machine.inject(Injection { fault, number, lasting, seed: 7, unit: 512 });
        (machine, device)
    }

    fn write(machine: &Machine, device: DeviceId, offset: u64) -> bool {
        let offset = FileOffset::new(offset);
        machine.submit(&[Step::Write { device, offset, data: &[2; 4096] }]).is_ok()
    }

    #[test]
    fn one_event_is_hit_or_all_from_it_on() {
        for (lasting, expected) in [(false, [true, false, true]), (true, [true, false, false])] {
            let (machine, device) = machine(Fault::Read, 1, lasting);
            let outcomes = [(); 3].map(|()| machine.read(device, FileOffset::ZERO, &mut [0; 8]).is_ok());
            assert_eq!(outcomes, expected);
            assert!(write(&machine, device, 0));
            assert_eq!(machine.hits(), 1 + u64::from(lasting));
        }
    }

    #[test]
    fn without_room_what_is_there_can_be_overwritten() {
        let (machine, device) = machine(Fault::NoSpace, 0, false);
        assert_eq!([4096, 8192, 0, 12288].map(|at| write(&machine, device, at)), [true, false, true, false]);
    }

    #[test]
    fn of_a_torn_change_sectors_arrive_and_then_nothing() {
        let (machine, device) = machine(Fault::Torn, 0, true);
        assert!(!write(&machine, device, 0) && !write(&machine, device, 4096));
        assert!(machine.read(device, FileOffset::ZERO, &mut [0; 8]).is_err());
        let bytes = machine.disk(device).to_bytes();
        let arrived = bytes.iter().filter(|byte| **byte == 2).count();
        assert!(arrived > 0 && arrived < 4096 && arrived.is_multiple_of(512), "{arrived}");
        assert!(bytes[..arrived].iter().all(|byte| *byte == 2));
    }

    #[test]
    fn what_a_failed_flush_was_to_keep_is_lost_for_good() {
        let (machine, device) = machine(Fault::Flush, 0, false);
        let flush = || machine.submit(&[Step::Barrier { device }]).is_ok();
        assert!(write(&machine, device, 0) && !flush() && write(&machine, device, 4096) && flush());
        let mut firsts = std::collections::BTreeSet::new();
        machine.journal().ends(20, 1, |_, disks| {
            let bytes = disks[0].to_bytes();
            assert_eq!(bytes[4096], 2);
            firsts.insert(bytes[0]);
        });
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [1, 2]);
    }
}
