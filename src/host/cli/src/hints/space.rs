//! A file system that is full: which, what is free there, and what was needed.

use std::os::unix::fs::MetadataExt;

use instar_render::escape::terminal;
use instar_vmm::{Device, Mode};

use super::Slip;

const SECTOR: u64 = 512;

fn in_words(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match UNITS.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

/// The room for what is written by a run, of whose devices the first `own` are of files that the user named. Nothing, if none of
/// those is written.
pub fn full(devices: &[Device], own: usize) -> Option<String> {
    let own = devices.get(..own)?;
    let occupied = |device: &Device| device.file.metadata().map_or(0, |meta| meta.blocks() * SECTOR);
    let free = |device: &Device| {
        let found = rustix::fs::fstatfs(&device.file).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_bsize.unsigned_abs()))
    };
    let written = own.iter().filter(|device| device.mode != Mode::Read);
    let (left, device) = written.filter_map(|device| Some((free(device)?, device))).min_by_key(|(left, _)| *left)?;
    let name = terminal(device.path.as_os_str().as_encoded_bytes());
    // What is given up with the target is free then.
    let left = left + if device.fresh { occupied(device) } else { 0 };
    let sources: u64 = own.iter().filter(|device| device.mode == Mode::Read).map(occupied).sum();
    let needed = match sources {
        0 => format!("it was to become {} long", in_words(device.file.metadata().map_or(0, |meta| meta.len()))),
        _ => format!("about {} are needed (the sources occupy as much)", in_words(sources)),
    };
    Some(format!("the file system of '{name}' has {} free; {needed}", in_words(left)))
}

pub fn hint(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    slip.program.full.borrow().clone()
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn bytes_are_read_by_people() {
        for (bytes, text) in
            [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (64 << 20, "64.0 MiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(in_words(bytes), text);
        }
    }
}
