//! What can be put right in an image: the number of blocks that its header tells, where they follow one another without a gap.
//! Whoever takes that number for the place of the next block would else write into one that is in use, or leave one unused.

use instar_image::{CheckContext, CheckReport, DeviceId, Repairs, Result};

use crate::check;
use crate::edit::count_blocks;
use crate::header::Header;

/// See [`instar_image::Image::repair`].
pub fn repair(header: &Header, device: DeviceId, what: Repairs, cx: CheckContext<'_>) -> Result<CheckReport> {
    let machine = cx.machine;
    let mut report = check::run(header, device, cx)?;
    if what == Repairs::All && report.corruptions == 1 && count_blocks(machine, header, device, false)? {
        report.corruptions_fixed = 1;
        report.corruptions = 0;
    }
    Ok(report)
}
