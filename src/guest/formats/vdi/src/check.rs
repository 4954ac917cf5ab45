//! `check`: whether each block of the file belongs to one of the disk, and whether they are as many as the header says.

use alloc::format;
use alloc::vec;

use instar_image::pieces::Pieces;
use instar_image::{CheckContext, CheckReport, DeviceId, Error, Result};

use crate::header::Header;
use crate::layout::DISCARDED;

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
    let mut pieces = Pieces::<4>::new(cx.machine.source(), device);
    let mut allocated = 0u32;
    let mut block = 0;
    while block < blocks {
        let entries = pieces.from(header.map, block)?;
        for (entry, block) in entries.iter().map(|e| u32::from_le_bytes(*e)).zip(block..) {
            if entry >= DISCARDED {
                continue;
            }
            if u64::from(entry) >= blocks {
                cx.findings.line(&format!("ERROR: block index {block} too large, is {entry}"))?;
                report.corruptions += 1;
                continue;
            }
            allocated = allocated.wrapping_add(1);
            let Some(word) = used.get_mut((entry / 64) as usize) else { continue };
            if *word & (1 << (entry % 64)) == 0 {
                *word |= 1 << (entry % 64);
            } else {
                cx.findings.line(&format!("ERROR: block index {entry} also used by {entry}"))?;
                report.corruptions += 1;
            }
        }
        block += entries.len() as u64;
    }
    if allocated != header.allocated {
        let said = header.allocated;
        cx.findings.line(&format!("ERROR: allocated blocks mismatch, is {allocated}, should be {said}"))?;
        report.corruptions += 1;
    }
    Ok(report)
}
