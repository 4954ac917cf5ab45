//! What can be put right in an image: blocks of the file that several of the disk refer to, or that lie behind as many as there
//! are, get a place of their own before those; then the header tells how many there are. Whoever takes that number for the
//! place of the next block would else write into one that is in use.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::check::Quiet;
use instar_image::{CheckContext, CheckReport, DeviceId, FileOffset, Machine, Repairs, Result, Step};

use crate::check;
use crate::edit::count_blocks;
use crate::header::Header;
use crate::layout::{BLOCK, UNALLOCATED, field, is_absent};

/// Entries that are changed at once.
const AT_ONCE: usize = 1 << 12;

/// See [`instar_image::Image::repair`].
pub fn repair(header: &Header, device: DeviceId, what: Repairs, cx: CheckContext<'_>) -> Result<CheckReport> {
    let machine = cx.machine;
    let before = check::run(header, device, cx)?;
    if what != Repairs::All || before.corruptions == 0 || header.check_order().is_err() {
        return Ok(before);
    }
    while give_places(machine, header, device)? {}
    count_blocks(machine, header, device, false)?;
    let mut allocated = [0; 4];
    machine.read(device, FileOffset::new(field::ALLOCATED as u64), &mut allocated)?;
    let now = Header { allocated: u32::from_le_bytes(allocated), ..header.clone() };
    let after = check::run(&now, device, CheckContext { machine, findings: &mut Quiet })?;
    let corruptions_fixed = before.corruptions.saturating_sub(after.corruptions);
    Ok(CheckReport { corruptions_fixed, ..after })
}

/// A bit for each block that the file may have.
struct Numbers {
    bits: Vec<u64>,
    count: u64,
    /// All before it are taken.
    next: u64,
}

impl Numbers {
    /// Takes one; false: it is taken already, or there is none such.
    fn take(&mut self, number: u64) -> bool {
        let mask = 1 << (number % 64);
        match self.bits.get_mut((number / 64) as usize).filter(|_| number < self.count) {
            Some(word) if *word & mask == 0 => {
                *word |= mask;
                true
            }
            _ => false,
        }
    }

    /// Takes the first that is free.
    fn first_free(&mut self) -> Option<u64> {
        while self.next < self.count {
            let number = self.next;
            self.next = number.saturating_add(1);
            if self.take(number) {
                return Some(number);
            }
        }
        None
    }
}

/// Copies blocks to where nothing is, and then has the map say so. Returns whether there may be more of them.
fn give_places(machine: &dyn Machine, header: &Header, device: DeviceId) -> Result<bool> {
    let (blocks, file_end) = (header.blocks(device), machine.stat(device)?.end());
    // Nothing is there, and it reads as nothing.
    let is_nothing = |entry: u32| u64::from(entry) >= header.map.count && header.block_at(entry) >= file_end;
    let mut count = 0u64;
    blocks.each(machine.source(), |_, entry| {
        count += u64::from(!is_absent(entry) && !is_nothing(entry));
        Ok(())
    })?;
    let mut numbers = Numbers { bits: vec![0; count.div_ceil(64) as usize], count, next: 0 };
    let mut homeless: Vec<(u64, u32)> = Vec::new();
    let mut is_more = false;
    blocks.each(machine.source(), |block, entry| {
        if !is_absent(entry) && !numbers.take(u64::from(entry)) {
            is_more |= homeless.len() >= AT_ONCE;
            if homeless.len() < AT_ONCE {
                homeless.push((block, entry));
            }
        }
        Ok(())
    })?;
    let mut moved: Vec<(u64, u32)> = Vec::new();
    let mut bytes = vec![0; BLOCK as usize];
    for (block, entry) in homeless {
        if is_nothing(entry) {
            moved.push((block, UNALLOCATED));
            continue;
        }
        let Some(number) = numbers.first_free().and_then(|number| u32::try_from(number).ok()) else {
            is_more = false;
            break;
        };
        machine.read(device, header.block_at(entry), &mut bytes)?;
        machine.submit(&[Step::Write { device, offset: header.block_at(number), data: &bytes }])?;
        moved.push((block, number));
    }
    if moved.is_empty() {
        return Ok(false);
    }
    machine.submit(&[Step::Barrier { device }])?;
    blocks.patch(machine, &moved)?;
    Ok(is_more)
}
