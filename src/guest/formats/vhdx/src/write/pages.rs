//! The block allocation table of a disk in the making: memory only for where there are blocks, so that 64 TiB cost no
//! more than what is in them.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::{DeviceId, Error, Machine, Result, Step};

use crate::bat::Geometry;

/// Entries of a page.
const PAGE: u64 = 1024;
/// Entries that are written at once.
const ENTRIES_AT_ONCE: u64 = 1 << 17;

/// Entries by their numbers.
pub struct Pages {
    pages: BTreeMap<u64, Box<[u64]>>,
    /// What a payload block's entry is if nothing else was said.
    default: u64,
}

impl Pages {
    /// All entries are `default`.
    pub const fn new(default: u64) -> Self {
        Self { pages: BTreeMap::new(), default }
    }

    /// The entry number `index`.
    pub fn get(&self, index: u64) -> u64 {
        let page = self.pages.get(&(index / PAGE));
        page.and_then(|p| p.get((index % PAGE) as usize)).copied().unwrap_or(self.default)
    }

    /// Sets it.
    pub fn set(&mut self, index: u64, entry: u64) -> Result<()> {
        let default = self.default;
        let page = self.pages.entry(index / PAGE).or_insert_with(|| vec![default; PAGE as usize].into_boxed_slice());
        let place = page.get_mut((index % PAGE) as usize);
        *place.ok_or_else(|| Error::corrupt("an entry without a place"))? = entry;
        Ok(())
    }

    /// Writes the region of `len` bytes; what is all zeroes is a hole already.
    pub fn write(&self, machine: &dyn Machine, device: DeviceId, geometry: &Geometry, len: u64) -> Result<()> {
        let (entries, places) = (geometry.entries(), len / 8);
        let mut first = 0;
        while first < places {
            let end = (first + ENTRIES_AT_ONCE).min(places);
            let touched = self.pages.range(first / PAGE..=end / PAGE).next().is_some();
            if touched || (self.default != 0 && first < entries) {
                let value = |index: u64| match self.get(index) {
                    // Bitmaps have an entry only where there is one.
                    entry if entry == self.default && geometry.is_bitmap(index) => 0,
                    _ if index >= entries => 0,
                    entry => entry,
                };
                let bytes: Vec<u8> = (first..end).flat_map(|index| value(index).to_le_bytes()).collect();
                let offset = geometry.bat + first * 8;
                machine.submit(&[Step::Write { device, offset, data: &bytes }])?;
            }
            first = end;
        }
        Ok(())
    }
}
