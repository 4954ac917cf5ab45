//! Doing what the log says, before anything else is changed ([MS-VHDX] 2.3.3): first the file is as it is to be, and that is
//! stable; then the headers say that the log is empty.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use instar_image::{DeviceId, Error, FileOffset, Machine, OpenContext, Result, Step};

use crate::header::Header;
use crate::layout::{ALIGNMENT, LOG_SECTOR};
use crate::log::{self, Log, PatchKind};

/// Sectors that are written at once.
const AT_ONCE: usize = 256;

/// See [`instar_image::Format::recover`].
pub fn recover(machine: &dyn Machine, cx: &OpenContext<'_, '_>) -> Result<()> {
    // What is wrong with a header is said by whoever opens the image.
    let Ok(header) = Header::read(cx) else { return Ok(()) };
    let log = log::read(cx, &header)?;
    repair(machine, cx.device, &header, &log).map(|_| ())
}

/// See [`instar_image::Image::repair`]. Returns whether there was anything to be done.
pub fn repair(machine: &dyn Machine, device: DeviceId, header: &Header, log: &Log) -> Result<bool> {
    if log.dirty {
        replay(machine, device, log)?;
        header.renew(machine, device, false)?;
    }
    Ok(log.dirty)
}

fn replay(machine: &dyn Machine, device: DeviceId, log: &Log) -> Result<()> {
    let mut file_end = machine.stat(device)?.end();
    let barrier = Step::Barrier { device };
    if FileOffset::new(log.file_len) > file_end {
        let len = log.file_len.checked_next_multiple_of(ALIGNMENT);
        let len = len.ok_or_else(|| Error::limit("the file gets too large"))?;
        machine.submit(&[Step::SetLength { device, len }, barrier])?;
        file_end = FileOffset::new(len);
    }
    // Of what is changed several times the last counts; sectors come after all zeroes.
    let mut sectors: BTreeMap<FileOffset, PatchKind> = BTreeMap::new();
    let mut zeroes: Vec<Step<'_>> = Vec::new();
    for patch in &log.patches {
        let end = patch.at.saturating_add(patch.len);
        if end > file_end {
            return Err(Error::corrupt("the log changes what lies behind the end of the file"));
        }
        match patch.kind {
            PatchKind::Sector { .. } => {
                sectors.insert(patch.at, patch.kind);
            }
            PatchKind::Zeroes => {
                let above = sectors.split_off(&patch.at);
                sectors.extend(above.into_iter().filter(|(at, _)| *at >= end));
                zeroes.push(Step::Zero { device, offset: patch.at, len: patch.len, unmap: true });
            }
        }
    }
    zeroes.push(barrier);
    machine.submit(&zeroes)?;
    let sectors: Vec<(FileOffset, PatchKind)> = sectors.into_iter().collect();
    for group in sectors.chunks(AT_ONCE) {
        let mut bytes: Vec<(FileOffset, [u8; LOG_SECTOR as usize])> = Vec::with_capacity(group.len());
        for (at, kind) in group {
            bytes.push((*at, kind.sector(machine.source(), device)?));
        }
        let steps: Vec<Step<'_>> =
            bytes.iter().map(|(offset, data)| Step::Write { device, offset: *offset, data }).collect();
        machine.submit(&steps)?;
    }
    machine.submit(&[barrier])
}
