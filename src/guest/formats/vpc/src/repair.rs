//! What can be put right in a VHD: of the two footers the damaged one, the checksum of the dynamic disk header, and entries of
//! blocks that are not in the file.

use alloc::vec::Vec;

use instar_image::check::Quiet;
use instar_image::table::Span;
use instar_image::{CheckContext, CheckReport, FileOffset, Machine, Repairs, Result, Step};

use crate::check::{Subject, check};
use crate::edit::end_of_file;
use crate::header::Dynamic;
use crate::layout::{FOOTER, SECTOR, UNUSED, bitmap_len};
use crate::map::end_of_blocks;

/// Entries that are changed at once.
const AT_ONCE: usize = 1 << 15;

/// See [`instar_image::Image::repair`].
pub fn repair(subject: &Subject<'_>, what: Repairs, cx: CheckContext<'_>) -> Result<CheckReport> {
    let machine = cx.machine;
    let before = check(subject, cx)?;
    let (Repairs::All, 1.., Some(header)) = (what, before.corruptions, subject.dynamic) else { return Ok(before) };
    let device = subject.device;
    if !header.sound {
        let table = Span { offset: header.table, count: header.entries };
        let write = Step::Write { device, offset: subject.footer.data_offset, data: &header.with_table(table) };
        machine.submit(&[write, Step::Barrier { device }])?;
    }
    forget_outside(machine, subject, header)?;
    footers(machine, subject, header)?;
    let sound = Dynamic {
        bytes: header.with_table(Span { offset: header.table, count: header.entries }),
        sound: true,
        ..*header
    };
    let after = check(&Subject { dynamic: Some(&sound), ..*subject }, CheckContext { machine, findings: &mut Quiet })?;
    let corruptions_fixed = before.corruptions.saturating_sub(after.corruptions);
    Ok(CheckReport { corruptions_fixed, ..after })
}

/// Blocks of which not a byte is in the file read as if there were none.
fn forget_outside(machine: &dyn Machine, subject: &Subject<'_>, header: &Dynamic) -> Result<()> {
    let file_end = machine.stat(subject.device)?.end();
    let table = header.blocks(subject.device, subject.footer.size);
    if header.table.saturating_add(header.entries * 4) > file_end {
        return Ok(());
    }
    let mut outside: Vec<(u64, u32)> = Vec::new();
    table.each(machine.source(), |block, entry| {
        if table.place(entry).is_some_and(|offset| offset.saturating_add(bitmap_len(header.block)) >= file_end) {
            outside.push((block, UNUSED));
        }
        if outside.len() >= AT_ONCE {
            table.patch(machine, &outside)?;
            outside.clear();
        }
        Ok(())
    })?;
    if outside.is_empty() { Ok(()) } else { table.patch(machine, &outside) }
}

/// Writes the footer that is sound where the other one is to be.
fn footers(machine: &dyn Machine, subject: &Subject<'_>, header: &Dynamic) -> Result<()> {
    let device = subject.device;
    let tail_at = machine.stat(device)?.end().saturating_sub(SECTOR);
    let (mut head, mut tail) = ([0; FOOTER], [0; FOOTER]);
    machine.read(device, FileOffset::ZERO, &mut head)?;
    machine.read(device, tail_at, &mut tail)?;
    if head == tail {
        return Ok(());
    }
    let (offset, data) = if subject.footer.at_start {
        // Where blocks are cut off there is no end.
        let Ok(end) = end_of_file(machine, device, header) else { return Ok(()) };
        let is_room = end_of_blocks(machine.source(), device, header)? <= tail_at;
        (if is_room { tail_at } else { end }, head)
    } else {
        (FileOffset::ZERO, tail)
    };
    machine.submit(&[Step::Write { device, offset, data: &data }, Step::Barrier { device }])
}
