//! Copied flags: of an entry that leads to what this disk alone refers to, which is then written in place.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::{Machine, Result, Step};

use crate::Qcow2Image;
use crate::check::tables::is_plain;
use crate::layout::{L1_ENTRY, L1_OFFSET_MASK, L2_OFFSET_MASK, OFLAG_COMPRESSED, OFLAG_COPIED};
use crate::refcount::sheet::Sheet;
use crate::window::numbers;

/// Sets those of the disk's entries that lead to clusters of `sheet`.
pub fn set(image: &Qcow2Image<'_>, machine: &dyn Machine, sheet: &Sheet) -> Result<()> {
    let (header, device) = (&image.header, image.device);
    let mut bytes = vec![0; 1 << header.cluster_bits];
    numbers(machine.source(), device, header.l1_offset, u64::from(header.l1_size), &mut |first, entries| {
        let mut changed: Vec<(u64, [u8; 8])> = Vec::new();
        for (index, entry) in (first..).zip(entries) {
            let table = entry & L1_OFFSET_MASK;
            if table == 0 {
                continue;
            }
            if let Some(count) = sheet.references(table >> header.cluster_bits) {
                let right = flagged(*entry, count == 1);
                if right != *entry {
                    changed.push((header.l1_offset.saturating_add(index * L1_ENTRY), right.to_be_bytes()));
                }
            }
            machine.read(device, table, &mut bytes)?;
            set_in_table(image, machine, sheet, table, &mut bytes)?;
        }
        let steps: Vec<Step<'_>> =
            changed.iter().map(|(offset, data)| Step::Write { device, offset: *offset, data }).collect();
        machine.submit(&steps)
    })
}

const fn flagged(entry: u64, single: bool) -> u64 {
    if single { entry | OFLAG_COPIED } else { entry & !OFLAG_COPIED }
}

/// The same in the L2 table with these bytes.
fn set_in_table(
    image: &Qcow2Image<'_>,
    machine: &dyn Machine,
    sheet: &Sheet,
    table: u64,
    bytes: &mut [u8],
) -> Result<()> {
    let g = &image.geometry;
    let mut changed = 0..0;
    for at in (0..bytes.len()).step_by(1 << g.entry_bits) {
        let entry = Reader::new(bytes).be64(at)?;
        if entry & OFLAG_COMPRESSED != 0 || !is_plain(g, entry) {
            continue;
        }
        // A data file is one image's alone.
        let count = if g.external { Some(1) } else { sheet.references((entry & L2_OFFSET_MASK) >> g.cluster_bits) };
        let right = count.map_or(entry, |count| flagged(entry, count == 1));
        if right != entry
            && let Some(place) = bytes.get_mut(at..at + 8)
        {
            place.copy_from_slice(&right.to_be_bytes());
            changed = if changed.is_empty() { at..at + 8 } else { changed.start..at + 8 };
        }
    }
    let data = bytes.get(changed.clone()).unwrap_or_default();
    if data.is_empty() {
        return Ok(());
    }
    let offset = table.saturating_add(changed.start as u64);
    machine.submit(&[Step::Write { device: image.device, offset, data }])
}
