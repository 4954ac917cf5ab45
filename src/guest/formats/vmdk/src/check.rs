//! `check`: whether every grain lies in its file.

use instar_image::{CheckContext, CheckReport, DeviceId, Image, Machine, Place, Result};

use crate::VmdkImage;

/// Checks the image. As with the stock tool, the first error ends it.
pub fn run(image: &VmdkImage<'_>, cx: CheckContext<'_>) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let size = image.virtual_size();
    // Of the file that was looked at last: asking for it is a call to the host.
    let mut known = None;
    let mut at = 0;
    while at < size {
        let extent = match image.extent(at, size - at) {
            Ok(extent) => extent,
            Err(_) => {
                let sector = at / 512;
                cx.findings.line(&alloc::format!("ERROR: could not get cluster_offset for sector {sector}\n"))?;
                report.corruptions += 1;
                break;
            }
        };
        let end = match extent.place {
            // Of a run, the last grain lies furthest.
            Place::Data { device, offset } => Some((device, offset.saturating_add(extent.len.saturating_sub(1)))),
            Place::Packed(packed) => Some((packed.device, packed.offset)),
            _ => None,
        };
        let flat = image.is_flat(at);
        if let Some((device, last)) = end.filter(|_| !flat)
            && let unit = image.cluster_size().unwrap_or(1)
            && last / unit * unit >= file_len(&mut known, device, cx.machine)?
        {
            cx.findings.line("ERROR: cluster offset after file size\n")?;
            report.corruptions += 1;
            break;
        }
        at = at.saturating_add(extent.len.max(1));
    }
    Ok(report)
}

fn file_len(known: &mut Option<(DeviceId, u64)>, device: DeviceId, machine: &dyn Machine) -> Result<u64> {
    match *known {
        Some((same, len)) if same == device => Ok(len),
        _ => {
            let len = machine.stat(device)?.len;
            *known = Some((device, len));
            Ok(len)
        }
    }
}
