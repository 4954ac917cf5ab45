//! `check`: whether every grain lies in its file, and every compressed one can be decompressed.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::walk::walk;
use instar_image::{
    CheckContext, CheckReport, Compressed, Decoder, DeviceId, Error, FileOffset, Image, Machine, Place, Result,
};

use crate::VmdkImage;

/// Checks the image. As with the stock tool, the first grain that has no place ends it, and it counts as not checked.
pub fn run(image: &VmdkImage<'_>, cx: CheckContext<'_>) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    let size = image.virtual_size();
    // Of the file that was looked at last: asking for it is a call to the host.
    let mut known = None;
    let mut grains = Grains { decoder: image.decoder(), stored: Vec::new(), grain: Vec::new() };
    let mut at = 0;
    for extent in walk(0..size, |at, max| image.extent(at, max)) {
        let Ok(extent) = extent else {
            let sector = at / 512;
            cx.findings.line(&alloc::format!("ERROR: could not get cluster_offset for sector {sector}"))?;
            return Err(Error::corrupt("Operation not permitted"));
        };
        let place = match extent.place {
            Place::Data { device, offset } => Some((device, offset, extent.len)),
            Place::Compressed(compressed) => Some((compressed.device, compressed.offset, 1)),
            _ => None,
        };
        if let Some((device, offset, len)) = place.filter(|_| !image.is_flat(at)) {
            let inside = file_end(&mut known, device, cx.machine)?.saturating_since(offset);
            let first = inside.next_multiple_of(image.cluster_size().unwrap_or(1).max(1));
            if first < len {
                let sector = at.saturating_add(first) / 512;
                cx.findings.line(&alloc::format!("ERROR: cluster offset for sector {sector} points after EOF"))?;
                return Err(Error::corrupt("Invalid argument"));
            }
        }
        if let Place::Compressed(compressed) = extent.place
            && grains.decompress(&compressed, cx.machine).is_err()
        {
            let sector = at / 512;
            cx.findings
                .line(&alloc::format!("ERROR: the compressed grain of sector {sector} cannot be decompressed"))?;
            report.corruptions += 1;
        }
        at = extent.end();
    }
    Ok(report)
}

/// Decompresses compressed grains for the sake of seeing whether it can be done, which the stock tool does not look at.
struct Grains<'i> {
    decoder: Option<Box<dyn Decoder + 'i>>,
    stored: Vec<u8>,
    grain: Vec<u8>,
}

impl Grains<'_> {
    fn decompress(&mut self, compressed: &Compressed, machine: &dyn Machine) -> Result<()> {
        let Some(decoder) = &mut self.decoder else { return Ok(()) };
        self.stored.resize(compressed.len as usize, 0);
        self.grain.resize(compressed.unit as usize, 0);
        machine.source().read(compressed.device, compressed.offset, &mut self.stored)?;
        decoder.decompress(compressed, &self.stored, &mut self.grain)
    }
}

fn file_end(known: &mut Option<(DeviceId, FileOffset)>, device: DeviceId, machine: &dyn Machine) -> Result<FileOffset> {
    match *known {
        Some((same, end)) if same == device => Ok(end),
        _ => {
            let end = machine.stat(device)?.end();
            *known = Some((device, end));
            Ok(end)
        }
    }
}
