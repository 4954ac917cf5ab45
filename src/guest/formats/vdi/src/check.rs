//! `check`: whether each block of the file belongs to one of the disk, and whether they are as many as the header says.

use alloc::format;
use alloc::vec;

use instar_image::{CheckContext, CheckReport, DeviceId, Error, Result};

use crate::header::Header;
use crate::layout::is_absent;

/// Most blocks of an image that is checked: a bit for each has to fit into the guest's memory (instar).
const CHECKED_MAX: u64 = 1 << 28;

/// Checks the image.
pub fn run(header: &Header, device: DeviceId, cx: CheckContext<'_>) -> Result<CheckReport> {
    let blocks = header.map.count;
    if blocks > CHECKED_MAX {
        return Err(Error::limit("Cannot allocate memory"));
    }
    let mut report = CheckReport::default();
    let mut used = vec![0u64; blocks.div_ceil(64) as usize];
    let mut allocated = 0u32;
    header.blocks(device).each(cx.machine.source(), |block, entry| {
        if is_absent(entry) {
            return Ok(());
        }
        if u64::from(entry) >= blocks {
            report.corruptions += 1;
            return cx.findings.line(&format!("ERROR: block index {block} too large, is {entry}"));
        }
        allocated = allocated.wrapping_add(1);
        let Some(word) = used.get_mut((entry / 64) as usize) else { return Ok(()) };
        if *word & (1 << (entry % 64)) == 0 {
            *word |= 1 << (entry % 64);
            return Ok(());
        }
        report.corruptions += 1;
        cx.findings.line(&format!("ERROR: block index {entry} also used by {entry}"))
    })?;
    if allocated != header.allocated {
        let said = header.allocated;
        cx.findings.line(&format!("ERROR: allocated blocks mismatch, is {allocated}, should be {said}"))?;
        report.corruptions += 1;
    }
    Ok(report)
}
