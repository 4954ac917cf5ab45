//! An image that was not closed. Entries of clusters that are not in the file are those of none; the file ends behind the last
//! cluster; then the mark of an open image goes, last.

use alloc::vec::Vec;

use instar_image::check::First;
use instar_image::{CheckContext, Error, FileOffset, Machine, OpenContext, Result, Step};

use crate::check;
use crate::edit::end;
use crate::header::Header;
use crate::layout::{SECTOR, field};

/// Entries that are changed at once.
const AT_ONCE: usize = 1 << 15;

/// See [`instar_image::Format::recover`].
pub fn recover(machine: &dyn Machine, cx: &OpenContext<'_, '_>) -> Result<()> {
    // What is wrong with a header is said by whoever opens the image.
    let Ok(mut header) = Header::read(cx) else { return Ok(()) };
    if !header.in_use {
        return Ok(());
    }
    let device = cx.device;
    let write = |at: usize, data: &[u8]| {
        machine.submit(&[Step::Write { device, offset: FileOffset::new(at as u64), data }, Step::Barrier { device }])
    };
    if let Some(sector) = check::right_data_start(&header, device, machine)? {
        let sector = u32::try_from(sector).map_err(|_| Error::limit("the file gets too large"))?;
        write(field::DATA_OFFSET, &sector.to_le_bytes())?;
        header.data = sector;
    }
    forget_outside(machine, &header, cx)?;
    header.in_use = false;
    let mut first = First::default();
    let report = check::run(&header, device, CheckContext { machine, findings: &mut first })?;
    if report.corruptions > 0 {
        return Err(Error::corrupt("Could not repair corrupted image: Input/output error").after(first.0));
    }
    let stat = machine.stat(device)?;
    let end = end(machine, &header, &header.blocks(device))?;
    // What an extension refers to lies behind what the map does.
    if end < stat.end() && !stat.block_device && header.extension == FileOffset::ZERO {
        machine.submit(&[Step::SetLength { device, len: end.get() }, Step::Barrier { device }])?;
    }
    write(field::IN_USE, &[0; 4])
}

/// The map no longer refers to clusters that are not in the file.
fn forget_outside(machine: &dyn Machine, header: &Header, cx: &OpenContext<'_, '_>) -> Result<()> {
    let end = machine.stat(cx.device)?.end().next_multiple_of(SECTOR);
    let blocks = header.blocks(cx.device);
    let mut outside: Vec<(u64, u32)> = Vec::new();
    blocks.each(machine.source(), |number, entry| {
        if blocks.place(entry).is_some_and(|at| at.saturating_add(header.cluster) > end) {
            outside.push((number, 0));
        }
        if outside.len() >= AT_ONCE {
            blocks.patch(machine, &outside)?;
            outside.clear();
        }
        Ok(())
    })?;
    if outside.is_empty() { Ok(()) } else { blocks.patch(machine, &outside) }
}
