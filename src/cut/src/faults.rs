//! Operations whose machine fails them: a read, a change, a flush, for want of room, in the middle of a change.

use std::fmt;

use instar_image::Value;
use instar_sim::{Disk, Fault, Injection, Machine};

use crate::{Folder, Image, Scenario, Watch};

/// Of so many states one is shown to the stock tool as well.
const STOCK: u64 = 16;
/// Random parts of what is in flight that a crash after the fault leaves.
const PARTS: u32 = 1;

/// How many faults of each kind there were, in the order of [`Fault::ALL`], and how many images were judged after them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Runs.
    pub faults: [u64; Fault::ALL.len()],
    /// Images.
    pub judged: u64,
}

impl Counts {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.faults.iter_mut().zip(other.faults).for_each(|(sum, more)| *sum += more);
        self.judged += other.judged;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, count) in Fault::ALL.iter().zip(self.faults) {
            write!(f, "{fault:?} {count}, ")?;
        }
        write!(f, "states judged {}", self.judged)
    }
}

/// What is right: the images before and after, and their contents.
struct Right {
    disks: Vec<Disk>,
    before: Vec<Vec<u8>>,
    after: Vec<Vec<u8>>,
    /// How many events each kind of fault could hit.
    events: [u64; Fault::ALL.len()],
}

impl Scenario {
    /// Runs it `runs` times with a fault of each kind. It fails each time (or, where a read is repeated that failed once, does
    /// what it should); what it leaves is as sound as after a cut, and so is what a crash makes of it; and done again it
    /// does what it should.
    ///
    /// # Panics
    /// When one of that is not so.
    #[must_use]
    pub fn faults(&self, runs: u64, seed: u64) -> Counts {
        let right = self.right();
        let place = Folder::new();
        let mut counts = Counts::default();
        for (kind, (fault, events)) in Fault::ALL.into_iter().zip(right.events).enumerate() {
            for run in 0..runs.min(2 * events) {
                let seed = mix(seed ^ (run << 8) ^ kind as u64);
                // The last one is hit in any case.
                let number = if run == 0 { events - 1 } else { seed % events };
                let lasting = run.is_multiple_of(2);
                self.fail(&right, Injection { fault, number, lasting, seed, unit: self.tears }, &place, &mut counts);
            }
        }
        counts
    }

    /// Whether it works on these images at all, when nothing fails; of damage at random not all can be repaired.
    #[must_use]
    pub fn works(&self) -> bool {
        let ((status, machine), _) = self.carried_out(&self.disks(&self.folder), None);
        status == 0 && !machine.journal().is_empty()
    }

    fn right(&self) -> Right {
        let disks = self.disks(&self.folder);
        let (machine, after) = self.carried_out(&disks, None);
        let (status, machine) = machine;
        assert_eq!(status, 0, "{:?}", machine.emitted());
        let (before, events) = (self.own_contents(&disks), Fault::ALL.map(|fault| machine.could_hit(fault)));
        let after = self.own_contents(&after);
        Right { disks, before, after, events }
    }

    /// Runs the operation on these images; exit status, machine, and the images then.
    fn carried_out(&self, disks: &[Disk], injection: Option<Injection>) -> ((u8, Machine), Vec<Disk>) {
        let (machine, devices) = self.machine(disks);
        let params: Value = self.arranged(&devices);
        machine.record();
        injection.into_iter().for_each(|injection| machine.inject(injection));
        let status = instar_ops::run(&machine, &params);
        let disks = devices.iter().map(|device| machine.disk(*device)).collect();
        ((status, machine), disks)
    }

    fn own_contents(&self, disks: &[Disk]) -> Vec<Vec<u8>> {
        let content = |(image, disk): (&Image, &Disk)| match self.own_content(disks, image) {
            Err(_) if image.watch == Watch::New && disk.is_empty() => Vec::new(),
            // So damaged that nothing can be read of it.
            Err(_) if self.worst.is_some() => Vec::new(),
            content => content.unwrap_or_else(|e| panic!("{image:?}: {e}")),
        };
        self.images.iter().zip(disks).map(content).collect()
    }

    fn fail(&self, right: &Right, injection: Injection, place: &Folder, counts: &mut Counts) {
        let when = format!("{injection:?}");
        let ((status, machine), disks) = self.carried_out(&right.disks, Some(injection));
        assert!(machine.hits() > 0, "{when}: nothing was hit");
        assert!(status <= 1 || self.worst.is_some(), "{when}: status {status}");
        if status == 0 {
            assert_eq!(injection.fault, Fault::Read, "{when}: nobody has noticed it");
            self.judge_own(&format!("{when}, unnoticed"), &disks, (&right.after, &right.after), true, counts);
            return;
        }
        let told = |key: &str| key == "error" || key == "late-error";
        // A repair goes on after what cannot be read, and says so.
        let is_said = self.worst.is_some() && !machine.said().is_empty();
        assert!(is_said || machine.emitted().iter().any(|(key, _)| told(key)), "{when}: nothing is told of it");
        counts.faults[injection.fault as usize] += 1;
        let both = (right.before.as_slice(), right.after.as_slice());
        self.judge_own(&when, &disks, both, false, counts);
        // Damaged ones it is shown when they have been repaired: before, not all that we can read is there for it.
        if injection.seed.is_multiple_of(STOCK) && !self.own && self.worst.is_none() {
            let devices = self.machine(&disks).1;
            self.write(place, &devices, &disks);
            self.judge(place, &format!("{when}, by the stock tool"), both.0, both.1, false);
            counts.judged += 1;
        }
        machine.journal().ends(PARTS, injection.seed, |crash, left| {
            self.judge_own(&format!("{when}, {crash}"), &left[..self.images.len()], both, false, counts);
        });
        self.again(&when, right, &disks, (place, injection.seed), counts);
    }

    /// The fault is gone, and the operation is called again.
    fn again(&self, when: &str, right: &Right, disks: &[Disk], (place, seed): (&Folder, u64), counts: &mut Counts) {
        let watched = |image: &&Image| matches!(image.watch, Watch::Whole | Watch::Sectors);
        let mut shown = self.images.iter().zip(&right.after).filter(|(image, _)| watched(image));
        let is_done =
            self.worst.is_none() && shown.all(|(image, after)| self.own_content(disks, image).as_ref() == Ok(after));
        if self.once || is_done {
            return;
        }
        // A new file begins empty.
        let start: Vec<Disk> = (self.images.iter().zip(disks))
            .map(|(image, disk)| if image.watch == Watch::New { Disk::default() } else { disk.clone() })
            .collect();
        let ((status, machine), disks) = self.carried_out(&start, None);
        assert_eq!(status, 0, "{when}, done again: {}{:?}", machine.said(), machine.emitted());
        let when = format!("{when}, done again");
        if self.worst.is_some() {
            // What was readable before the first run is, after the second.
            self.judge_own(&when, &disks, (&right.before, &right.after), true, counts);
            if seed.is_multiple_of(STOCK) && !self.own {
                self.write(place, &self.machine(&disks).1, &disks);
                self.judge(place, &format!("{when}, by the stock tool"), &right.before, &right.after, true);
                counts.judged += 1;
            }
            return;
        }
        self.judge_own(&when, &disks, (&right.after, &right.after), false, counts);
    }

    fn judge_own(&self, when: &str, disks: &[Disk], both: (&[Vec<u8>], &[Vec<u8>]), clean: bool, counts: &mut Counts) {
        counts.judged += 1;
        let content = |image: &Image| self.own_content(disks, image);
        self.judge_by(when, both, clean, &content, &|image| self.own_check(disks, image));
    }
}

/// Numbers that follow one another, far apart.
const fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 1
}
