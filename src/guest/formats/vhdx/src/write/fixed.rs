//! The writer of fixed disks: every block has its place.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::create::check_room;
use instar_image::fixed::FixedWriter;
use instar_image::runs::RunMap;
use instar_image::{CreateContext, DeviceId, Machine, Result, Step, Writer};

use super::encode;
use super::spec::Spec;
use crate::bat::Entry;
use crate::layout::state;

/// Entries of the table that are written at once.
const ENTRIES_AT_ONCE: u64 = 1 << 16;

/// Reserves the length.
pub fn create<'a>(cx: &CreateContext<'a, '_>, spec: Spec) -> Result<Box<dyn Writer + 'a>> {
    let (machine, device) = (cx.machine, cx.device);
    let (base, len) = (spec.data(), (spec.data() + spec.size).get());
    check_room(machine, device, len)?;
    let finish = move |zeroed| finish(machine, device, &spec, zeroed);
    Ok(Box::new(FixedWriter::new(machine, device, base, len, finish)?))
}

/// Writes the table and the headers.
fn finish(machine: &dyn Machine, device: DeviceId, spec: &Spec, zeroed: bool) -> Result<()> {
    let geometry = spec.geometry();
    // A disk without data has its room at the end of the file, and, as QEMU has it, blocks that are zeroes yet.
    let len = (spec.data() + spec.size).get();
    let run = RunMap::new(machine.source(), device, len).run(spec.data())?;
    let blank = spec.zero && zeroed && !run.data && run.len >= spec.size;
    let places = spec.bat_len() / 8;
    let mut first = 0;
    while first < places {
        let end = (first + ENTRIES_AT_ONCE).min(places);
        let value = |index: u64| {
            let block = index - index / (geometry.ratio + 1);
            if geometry.is_bitmap(index) || block >= geometry.blocks {
                0
            } else if blank {
                state::ZERO
            } else {
                Entry::at(spec.data() + block * geometry.block, state::FULLY_PRESENT).0
            }
        };
        let bytes: Vec<u8> = (first..end).flat_map(|index| value(index).to_le_bytes()).collect();
        machine.submit(&[Step::Write { device, offset: geometry.bat + first * 8, data: &bytes }])?;
        first = end;
    }
    encode::write(machine, device, spec, None)
}
