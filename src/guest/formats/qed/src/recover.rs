//! An image that was not closed. Entries that lead to where no table or cluster can be are those of none, as the stock tool
//! has it; then the image no longer asks to be checked.

use alloc::vec::Vec;

use instar_image::check::Quiet;
use instar_image::table::{Span, TableCache};
use instar_image::{CheckContext, CheckReport, DeviceId, Error, Machine, OpenContext, Result, Step};

use crate::check;
use crate::edit::Head;
use crate::header::Header;
use crate::layout::{ENTRY, UNALLOCATED, ZERO, feature};

/// See [`instar_image::Format::recover`].
pub fn recover(machine: &dyn Machine, cx: &OpenContext<'_, '_>) -> Result<()> {
    // What is wrong with a header is said by whoever opens the image.
    let Ok(header) = Header::read(cx) else { return Ok(()) };
    if header.features & feature::NEED_CHECK == 0 {
        return Ok(());
    }
    let device = cx.device;
    let count = || check::run(&header, device, &CheckContext { machine, findings: &mut Quiet });
    if count()?.corruptions > 0 {
        forget_outside(machine, device, &header)?;
        if count()?.corruptions > 0 {
            return Err(used_twice());
        }
    }
    clear_mark(machine, device)
}

/// See [`instar_image::Image::repair`]: the same, whatever else is wrong.
pub fn repair(header: &Header, device: DeviceId, cx: &CheckContext<'_>) -> Result<CheckReport> {
    let mut report = check::run(header, device, cx)?;
    if report.corruptions > 0 {
        report.corruptions_fixed = forget_outside(cx.machine, device, header)?;
        report.corruptions = report.corruptions.saturating_sub(report.corruptions_fixed);
    }
    if header.features & feature::NEED_CHECK != 0 {
        clear_mark(cx.machine, device)?;
    }
    Ok(report)
}

/// Entries that lead to where no table or cluster can be are those of none. Returns how many there were.
fn forget_outside(machine: &dyn Machine, device: DeviceId, header: &Header) -> Result<u64> {
    let tables = Tables { machine, device, header };
    let mut count = tables.forget(header.l1, |table| header.is_table(table, header.file_len))?;
    // Tables that lie one over the other are not mended, and not walked through for ever.
    let mut left = header.file_len / header.cluster;
    tables.each(header.l1, |table| {
        left = left.checked_sub(header.table).ok_or_else(used_twice)?;
        let gone = tables.forget(table, |offset| offset == ZERO || header.is_cluster(offset, header.file_len))?;
        count = count.saturating_add(gone);
        Ok(())
    })?;
    machine.submit(&[Step::Barrier { device }])?;
    Ok(count)
}

fn clear_mark(machine: &dyn Machine, device: DeviceId) -> Result<()> {
    let mut head = Head::read(machine, device)?;
    head.set_features(0, feature::NEED_CHECK);
    head.write(machine)
}

fn used_twice() -> Error {
    Error::corrupt("Input/output error").after("the image was not closed, and clusters of it are used twice")
}

struct Tables<'t> {
    machine: &'t dyn Machine,
    device: DeviceId,
    header: &'t Header,
}

impl Tables<'_> {
    /// Calls `act` for every entry of the table at `offset` that is not empty.
    fn each(&self, offset: u64, mut act: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let mut pieces = TableCache::<8>::new(self.machine.source(), self.device);
        let table: Span = self.header.table_at(offset);
        let mut index = 0;
        while index < table.count {
            let entries = pieces.from(table, index)?.to_vec();
            for entry in entries.iter().map(|entry| u64::from_le_bytes(*entry)).filter(|e| *e != UNALLOCATED) {
                act(entry)?;
            }
            index += entries.len().max(1) as u64;
        }
        Ok(())
    }

    /// Empties the entries of the table at `offset` that are not `fine`; returns how many.
    fn forget(&self, offset: u64, fine: impl Fn(u64) -> bool) -> Result<u64> {
        let (machine, device, mut count) = (self.machine, self.device, 0u64);
        let mut pieces = TableCache::<8>::new(machine.source(), device);
        let table: Span = self.header.table_at(offset);
        let mut index = 0;
        while index < table.count {
            let entries = pieces.from(table, index)?;
            let bad = entries.iter().zip(index..).filter(|(entry, _)| {
                let entry = u64::from_le_bytes(**entry);
                entry != UNALLOCATED && !fine(entry)
            });
            let none = UNALLOCATED.to_le_bytes();
            let steps: Vec<Step<'_>> = bad
                .map(|(_, index)| Step::Write {
                    device,
                    offset: table.offset.saturating_add(index * ENTRY),
                    data: &none,
                })
                .collect();
            machine.submit(&steps)?;
            count = count.saturating_add(steps.len() as u64);
            index += entries.len().max(1) as u64;
        }
        Ok(count)
    }
}
