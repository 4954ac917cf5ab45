//! Damage from seeds, to images of every format that can be repaired.

use std::fs;

use crate::{Folder, Image, SECTOR, Scenario, Watch};

/// A small generator of numbers: what matters is that they are the same every time.
#[derive(Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one below `bound`.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[index(self.below(list.len() as u64))]
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("it is short")
}

/// An image, and what is in its file.
#[derive(Debug)]
pub struct Damage {
    /// Where it is.
    pub folder: Folder,
    format: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Damage {
    /// A sound image of 3 MiB in which something was written; with a `snapshot`, it has changed since.
    #[must_use]
    pub fn new(format: &'static str, options: &str, snapshot: bool) -> Self {
        let folder = Folder::new();
        folder.stock("qemu-img", &["create", "-q", "-f", format, "-o", options, "top", "3M"]);
        let write = |commands: &[&str]| {
            let mut arguments = vec!["-f", format];
            arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
            folder.stock("qemu-io", &[&arguments[..], &["top"]].concat());
        };
        write(&["write -P 9 100k 300k", "write -P 8 2500k 100k", "write -P 6 1M 300k"]);
        if snapshot {
            folder.stock("qemu-img", &["snapshot", "-c", "before", "top"]);
            write(&["write -P 5 200k 300k"]);
        }
        let bytes = fs::read(folder.path("top")).expect("it was made");
        Self { folder, format, bytes }
    }

    /// A number of eight bytes, the highest first.
    #[must_use]
    pub fn number(&self, at: u64) -> u64 {
        self.bytes.get(index(at)..index(at) + 8).map_or(0, |b| u64::from_be_bytes(b.try_into().expect("eight bytes")))
    }

    fn little(&self, at: u64) -> u32 {
        self.bytes.get(index(at)..index(at) + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("four bytes")))
    }

    /// Puts bytes into the file.
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(index(at)..index(at) + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Where a qcow2 has its L1 table, its first L2 table, its refcount table and its first refcount block.
    #[must_use]
    pub fn tables(&self) -> [u64; 4] {
        let (l1, table) = (self.number(40), self.number(48));
        let l2 = (l1..).step_by(8).map(|at| self.number(at)).find(|entry| *entry != 0).expect("there is data");
        [l1, l2 & 0x00ff_ffff_ffff_fe00, table, self.number(table)]
    }

    /// `check -r what` of it.
    #[must_use]
    pub fn repair(self, what: &str, watch: Watch) -> Scenario {
        fs::write(self.folder.path("top"), &self.bytes).expect("there is room");
        let image = Image { name: "top", format: self.format, watch };
        let mut scenario = Scenario::new("check", self.folder, &[image]);
        scenario.params.set("repair", what);
        scenario.worst = Some(u64::MAX);
        scenario
    }

    /// Damages it in one to three ways that its format has.
    pub fn at_random(&mut self, numbers: &mut Numbers) {
        if self.format == "vhdx" {
            crate::vhdx_log::lose_the_table(&mut self.bytes, numbers);
        }
        for _ in 0..=numbers.below(3) {
            match self.format {
                "qcow2" => self.qcow2(numbers),
                "qed" => self.qed(numbers),
                "parallels" => self.parallels(numbers),
                "vdi" => self.vdi(numbers),
                "vpc" => self.vpc(numbers),
                _ => {}
            }
        }
    }

    fn qcow2(&mut self, numbers: &mut Numbers) {
        let [l1, l2, table, block] = self.tables();
        let len = self.bytes.len() as u64;
        let used: Vec<u64> = (0..512).map(|n| l2 + 8 * n).filter(|at| self.number(*at) != 0).collect();
        if used.is_empty() {
            return;
        }
        let (one, other) = (numbers.of(&used), numbers.of(&used));
        match numbers.below(9) {
            0 => self.put(one, &(self.number(one) ^ 1 << 63).to_be_bytes()),
            1 => self.put(one, &self.number(other).to_be_bytes()),
            2 => self.put(one, &(self.number(one) + 512).to_be_bytes()),
            3 => self.put(l1, &(self.number(l1) ^ 1 << 63).to_be_bytes()),
            4 => self.put(block + numbers.below(64), &[numbers.below(4) as u8]),
            5 => self.put(block, &[0; 200]),
            6 => {
                let place = numbers.of(&[0, l1, len + 65536, block + 512]);
                self.put(table, &place.to_be_bytes());
            }
            7 => self.put(79, &[1 + numbers.below(3) as u8]),
            _ => self.bytes.resize(index(len + 512 * numbers.below(300)), 7),
        }
    }

    fn qed(&mut self, numbers: &mut Numbers) {
        let l1 = self.number(40).swap_bytes();
        let tables: Vec<u64> =
            (0..4).map(|n| self.number(l1 + 8 * n).swap_bytes()).filter(|table| *table != 0).collect();
        self.put(16, &[2]);
        if tables.is_empty() {
            return;
        }
        let at = numbers.of(&tables) + 8 * numbers.below(1000);
        let value = numbers.of(&[0, 1 << 40, l1, self.bytes.len() as u64 + 65536, 513]);
        match numbers.below(4) {
            0 => self.put(l1 + 8 * numbers.below(4), &value.to_le_bytes()),
            1 | 2 => self.put(at, &value.to_le_bytes()),
            _ => {}
        }
    }

    fn parallels(&mut self, numbers: &mut Numbers) {
        let entry = 64 + 4 * numbers.below(48);
        let first = (0..48).map(|n| self.little(64 + 4 * n)).find(|entry| *entry != 0).unwrap_or(0);
        match numbers.below(5) {
            0 => self.put(entry, &first.to_le_bytes()),
            1 => self.put(entry, &0x0010_0000_u32.to_le_bytes()),
            2 => self.put(44, &0x746f_6e59_u32.to_le_bytes()),
            3 => self.put(48, &numbers.of(&[77u32, 1, 1 << 30]).to_le_bytes()),
            _ => self.bytes.resize(self.bytes.len() + numbers.of(&[512, 65536, 100_000]), 7),
        }
    }

    fn vdi(&mut self, numbers: &mut Numbers) {
        let map = u64::from(self.little(340));
        let (one, other) = (map + 4 * numbers.below(3), map + 4 * numbers.below(3));
        match numbers.below(3) {
            // The number of blocks that the header tells.
            0 => self.put(388, &(numbers.below(5) as u32).to_le_bytes()),
            1 => self.put(one, &self.little(other).to_le_bytes()),
            _ => self.put(one, &(3 + numbers.below(9) as u32).to_le_bytes()),
        }
    }

    fn vpc(&mut self, numbers: &mut Numbers) {
        let tail = (self.bytes.len() - SECTOR) as u64;
        let place = numbers.of(&[0, tail]) + numbers.below(500);
        match numbers.below(4) {
            0 => self.put(place, &[0xaa; 8]),
            // What the dynamic disk header says of its checksum.
            1 => self.put(512 + 36, &(numbers.below(1 << 32) as u32).to_be_bytes()),
            // An entry that leads out of the file; it has to be one without a block: blocks are not to be lost.
            2 => {
                let unused = (0..2).map(|n| 1536 + 4 * n).find(|at| self.little(*at) == u32::MAX);
                unused.into_iter().for_each(|at| self.put(at, &0x0100_0000_u32.to_be_bytes()));
            }
            _ => self.put(numbers.of(&[0, tail]), &[0; SECTOR]),
        }
    }
}
