//! `check`: whether every grain lies in its file.

use instar_image::{CheckContext, CheckReport, Result};

use crate::VmdkImage;
use instar_image::{Image, Place};

/// Checks the image. As with the stock tool, the first error ends it.
pub fn run(image: &VmdkImage<'_>, cx: CheckContext<'_>) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let size = image.virtual_size();
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
            && last / unit * unit >= cx.machine.stat(device)?.len
        {
            cx.findings.line("ERROR: cluster offset after file size\n")?;
            report.corruptions += 1;
            break;
        }
        at = at.saturating_add(extent.len.max(1));
    }
    Ok(report)
}
