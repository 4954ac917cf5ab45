//! A file system that is full: which, what is free there, and what was needed.

use std::os::unix::fs::MetadataExt;

use instar_render::escape::terminal;
use instar_vmm::{Device, Mode};

use super::Slip;
use crate::sizes;

const SECTOR: u64 = 512;

fn in_words(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match UNITS.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

/// The file system that has the least room of those that a run wrote to.
pub struct Full {
    /// The file there, as it is shown.
    name: String,
    /// Bytes that are free, what is given up with the target among them.
    free: u64,
    /// Bytes that the sources occupy.
    sources: u64,
}

/// What is left for a run that failed, of whose devices the first `own` are of files that the user named.
pub fn full(devices: &[Device], own: usize) -> Option<Full> {
    let own = devices.get(..own)?;
    let occupied = |device: &Device| device.file.metadata().map_or(0, |meta| meta.blocks() * SECTOR);
    let free = |device: &Device| {
        let found = rustix::fs::fstatfs(&device.file).ok()?;
        let left = found.f_bavail.saturating_mul(found.f_bsize.unsigned_abs());
        Some(left.saturating_add(if device.fresh { occupied(device) } else { 0 }))
    };
    let written = own.iter().filter(|device| device.mode != Mode::Read);
    let (free, device) = written.filter_map(|device| Some((free(device)?, device))).min_by_key(|(free, _)| *free)?;
    let name = terminal(device.path.as_os_str().as_encoded_bytes());
    Some(Full { name, free, sources: own.iter().filter(|device| device.mode == Mode::Read).map(occupied).sum() })
}

pub fn hint(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    let full = slip.program.full.borrow();
    let Full { name, free, sources } = full.as_ref()?;
    let asked = slip.named().get(1).and_then(|word| word.to_str());
    let asked = asked.filter(|word| sizes::parse(word.trim_start_matches(['+', '-'])).is_some());
    let needed = match (sources, asked) {
        (0, Some(size)) => format!("; {size} was asked for"),
        (0, None) => String::new(),
        _ => format!("; about {} are needed (the sources occupy as much)", in_words(*sources)),
    };
    Some(format!("the file system of '{name}' has {} free{needed}", in_words(*free)))
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
