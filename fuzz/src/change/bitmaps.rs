//! Persistent bitmaps: which there are, and which bits are set in them, beside what is done to the image.
//!
//! What the file says of them is read by the specification ("Bitmaps extension") and by nothing of ours.

use std::collections::BTreeSet;
use std::ops::Range;

use instar_image::Value;

use super::numbers::Numbers;
use super::world::World;

const EXTENSION: u32 = 0x2385_2875;
const IN_USE: u32 = 1;
const AUTO: u32 = 2;
const NAMES: [&str; 4] = ["a", "b", "c", "other"];
/// Granularities that are asked for, as powers of two.
const GRANULARITIES: [u8; 5] = [9, 12, 13, 16, 20];

/// A bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    name: String,
    granularity_bits: u8,
    auto: bool,
    bits: BTreeSet<u64>,
}

/// Which bytes of the disk an operation has changed, as far as the model knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// These, all of which are marked, and perhaps what lies in the same clusters.
    Written(Vec<Range<u64>>),
    /// Some of these, and perhaps what lies in the same clusters: zeroes were written over zeroes.
    Within(Vec<Range<u64>>),
    /// Whatever shows something else now, and perhaps more.
    Something,
    /// None.
    Nothing,
}

fn number(file: &[u8], at: usize, len: usize) -> Option<u64> {
    Some(file.get(at..at.checked_add(len)?)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// The version of the format that it is of.
fn version(file: &[u8]) -> u64 {
    number(file, 4, 4).unwrap_or(0)
}

/// Where the directory is, and how many entries it has.
fn directory(file: &[u8]) -> Option<(usize, u64)> {
    let mut at = number(file, 100, 4)? as usize;
    loop {
        let (kind, len) = (number(file, at, 4)? as u32, number(file, at + 4, 4)? as usize);
        match kind {
            EXTENSION => return Some((number(file, at + 24, 8)? as usize, number(file, at + 8, 4)?)),
            0 => return None,
            _ => at += 8 + len.next_multiple_of(8),
        }
    }
}

/// The bitmaps of an image in the order of their names; `None`: they cannot be read, or are in use.
fn read(file: &[u8], granules: impl Fn(u8) -> u64) -> Option<Vec<Bitmap>> {
    if version(file) < 3 || number(file, 88, 8)? & 1 == 0 {
        return Some(Vec::new());
    }
    let cluster = 1usize << number(file, 20, 4)?;
    let (mut at, count) = directory(file)?;
    let mut list = Vec::new();
    for _ in 0..count {
        let (table, entries) = (number(file, at, 8)? as usize, number(file, at + 8, 4)? as usize);
        let (flags, name_len) = (number(file, at + 12, 4)? as u32, number(file, at + 18, 2)? as usize);
        let granularity_bits = *file.get(at + 17)?;
        let name = String::from_utf8_lossy(file.get(at + 24..at + 24 + name_len)?).into_owned();
        if flags & IN_USE != 0 {
            return None;
        }
        let mut bits = BTreeSet::new();
        for index in 0..entries {
            let first = (index * cluster * 8) as u64;
            match number(file, table + 8 * index, 8)? as usize {
                0 => {}
                1 => bits.extend(first..first + cluster as u64 * 8),
                // The file may end within its last cluster.
                place => {
                    let bytes = file.get(place..(place + cluster).min(file.len()))?;
                    let is_set =
                        |bit: &u64| bytes.get((bit / 8) as usize).is_some_and(|byte| byte & 1 << (bit % 8) != 0);
                    bits.extend((0..cluster as u64 * 8).filter(is_set).map(|bit| first + bit));
                }
            }
        }
        bits.split_off(&granules(granularity_bits));
        list.push(Bitmap { name, granularity_bits, auto: flags & AUTO != 0, bits });
        at += (24 + name_len).next_multiple_of(8);
    }
    list.sort_by(|one, other| one.name.cmp(&other.name));
    Some(list)
}

impl Bitmap {
    /// Bits for these bytes.
    fn bits_of(&self, range: &Range<u64>) -> Range<u64> {
        range.start >> self.granularity_bits..range.end.div_ceil(1 << self.granularity_bits)
    }

    /// The bits of another one, too.
    fn merge(&mut self, other: &Self) {
        for bit in &other.bits {
            let bytes = bit << other.granularity_bits..(bit + 1) << other.granularity_bits;
            self.bits.extend(self.bits_of(&bytes));
        }
    }
}

impl World {
    fn granules(size: u64) -> impl Fn(u8) -> u64 {
        move |bits| size.div_ceil(1 << bits)
    }

    /// Some actions on a bitmap.
    pub fn bitmap(&mut self, numbers: &mut Numbers<'_>) {
        if self.kind.format != "qcow2" {
            return;
        }
        let name = NAMES[numbers.or_zero(4) as usize];
        let bits = numbers.or_zero(2 * GRANULARITIES.len() as u64) as usize;
        let granularity = GRANULARITIES.get(bits).copied();
        let file = self.top_bytes();
        let usual = (number(&file, 20, 4).unwrap_or(16) as u8).clamp(12, 16);
        let (mut after, mut done) = (self.marks.clone(), version(&file) >= 3);
        let mut actions = Vec::new();
        for _ in 0..=numbers.or_zero(3) {
            let verb = ["add", "add", "remove", "clear", "enable", "disable", "merge", "merge", "remove-all"]
                [numbers.or_zero(9) as usize];
            let from = NAMES[numbers.or_zero(4) as usize];
            let mut action = Value::map();
            action.set("action", verb).set("from", from.as_bytes().to_vec());
            actions.push(action);
            done = done && Self::act(&mut after, verb, name, from, granularity.unwrap_or(usual));
        }
        let mut params = self.params("bitmap");
        params.set("image", self.top()).set("actions", actions).set("name", name.as_bytes().to_vec());
        if let Some(bits) = granularity {
            params.set("granularity", 1u64 << bits);
        }
        let told = format!("{params:?}");
        let fine = self.run(&params).0 == 0;
        let Some(shows) = &self.shows else { return };
        if version(&file) < 3 {
            after = self.marks.clone();
        } else {
            assert_eq!(fine, done, "{:?}: {told}", self.kind);
        }
        let size = shows.len() as u64;
        after.iter_mut().for_each(|bitmap| drop(bitmap.bits.split_off(&Self::granules(size)(bitmap.granularity_bits))));
        let now = read(&self.top_bytes(), Self::granules(size));
        assert!(now.as_ref() == Some(&after), "{:?}: {told}: {now:?} instead of {after:?}", self.kind);
        self.marks = after;
    }

    /// What becomes of the bitmaps, if anything does; false: it cannot be done.
    fn act(list: &mut Vec<Bitmap>, verb: &str, name: &str, from: &str, granularity_bits: u8) -> bool {
        let found = list.iter().position(|bitmap| bitmap.name == name);
        let other = list.iter().find(|bitmap| bitmap.name == from).cloned();
        match (verb, found) {
            ("remove-all", _) => list.clear(),
            ("add", None) => {
                let at = list.partition_point(|bitmap| bitmap.name.as_str() < name);
                list.insert(at, Bitmap { name: name.into(), granularity_bits, auto: true, bits: BTreeSet::new() });
            }
            ("add", Some(_)) | (_, None) => return false,
            ("remove", Some(index)) => drop(list.remove(index)),
            ("clear", Some(index)) => list[index].bits.clear(),
            ("merge", Some(index)) => match other {
                Some(other) => list[index].merge(&other),
                None => return false,
            },
            (_, Some(index)) => list[index].auto = verb == "enable",
        }
        true
    }

    /// Compares the bitmaps with what the last operation may have done to them. `before`: what the disk showed.
    pub fn look_at_bitmaps(&mut self, before: Option<&[u8]>) {
        let touched = std::mem::replace(&mut self.touched, Touched::Something);
        let (Some(shows), "qcow2") = (&self.shows, self.kind.format) else { return };
        let (file, size) = (self.top_bytes(), shows.len() as u64);
        let now = read(&file, Self::granules(size)).unwrap_or_else(|| panic!("{:?}: bitmaps in use", self.kind));
        if version(&file) < 3 {
            self.marks.clear();
        }
        assert_eq!(now.len(), self.marks.len(), "{:?}: so many bitmaps", self.kind);
        let cluster = 1 << number(&file, 20, 4).unwrap_or(16);
        let old_size = before.map_or(0, |before| before.len() as u64);
        for (now, old) in now.iter().zip(&self.marks) {
            let wrong = |what: &str| panic!("{:?}: bitmap {}: {what}, {touched:?}", self.kind, old.name);
            let mut kept = old.bits.clone();
            kept.split_off(&Self::granules(size)(old.granularity_bits));
            if (&now.name, now.granularity_bits, now.auto) != (&old.name, old.granularity_bits, old.auto) {
                wrong("it is another one");
            }
            let added = || now.bits.difference(&kept);
            if !kept.is_subset(&now.bits) {
                wrong("bits are gone");
            }
            if !old.auto || touched == Touched::Nothing {
                if added().next().is_some() {
                    wrong("it has changed");
                }
                continue;
            }
            if let Touched::Written(ranges) | Touched::Within(ranges) = &touched {
                let bits = |unit: u64| {
                    let whole = |range: &Range<u64>| range.start / unit * unit..range.end.next_multiple_of(unit);
                    let end = Self::granules(size)(old.granularity_bits);
                    let bits = ranges.iter().flat_map(move |range| old.bits_of(&whole(range)));
                    bits.filter(move |bit| *bit < end).collect::<BTreeSet<_>>()
                };
                if matches!(touched, Touched::Written(_)) && !bits(1).is_subset(&now.bits) {
                    wrong("a bit is missing");
                }
                if !added().all(|bit| bits(cluster).contains(bit)) {
                    wrong("more is marked than was changed");
                }
            }
            let part = |of: &[u8], bit: u64| {
                let end = ((bit + 1) << old.granularity_bits).min(of.len() as u64) as usize;
                of[((bit << old.granularity_bits) as usize).min(end)..end].to_vec()
            };
            let both = size.min(old_size) >> old.granularity_bits;
            let same = |bit: &u64| part(before.unwrap_or_default(), *bit) == part(shows, *bit);
            if (0..both).filter(|bit| !now.bits.contains(bit)).any(|bit| !same(&bit)) {
                wrong("a change is missing");
            }
        }
        self.marks = now;
    }
}
