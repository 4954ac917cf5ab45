//! An image that was not closed. Entries that lead to where no table or cluster can be are those of none, as the stock tool
//! has it; then the image no longer asks to be checked.

use alloc::vec::Vec;

use instar_image::check::Quiet;
use instar_image::{CheckContext, CheckReport, DeviceId, Error, FileOffset, Machine, OpenContext, Result, Step};

use crate::check;
use crate::edit::Head;
use crate::header::Header;
use crate::layout::{UNALLOCATED, feature};

/// Entries that are changed at once.
const AT_ONCE: usize = 1 << 12;

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
        report = forget_outside(cx.machine, device, header)?;
    }
    if header.features & feature::NEED_CHECK != 0 {
        clear_mark(cx.machine, device)?;
    }
    Ok(report)
}

/// Entries that lead to where no table or cluster can be are those of none.
fn forget_outside(machine: &dyn Machine, device: DeviceId, header: &Header) -> Result<CheckReport> {
    let none = UNALLOCATED.to_le_bytes();
    let mut places: Vec<FileOffset> = Vec::new();
    let write = |places: &mut Vec<FileOffset>| {
        let steps: Vec<Step<'_>> = places.drain(..).map(|offset| Step::Write { device, offset, data: &none }).collect();
        machine.submit(&steps)
    };
    let cx = CheckContext { machine, findings: &mut Quiet };
    let report = check::run_with(header, device, &cx, &mut |at| {
        places.push(at);
        if places.len() >= AT_ONCE {
            write(&mut places)?;
        }
        Ok(true)
    })?;
    write(&mut places)?;
    machine.submit(&[Step::Barrier { device }])?;
    Ok(report)
}

fn clear_mark(machine: &dyn Machine, device: DeviceId) -> Result<()> {
    let mut head = Head::read(machine, device)?;
    head.set_features(0, feature::NEED_CHECK);
    head.write(machine)
}

fn used_twice() -> Error {
    Error::corrupt("Input/output error").after("the image was not closed, and clusters of it are used twice")
}
