//! LUKS images of version 2 for the fuzz target: a header counts only with its checksum, which no change at random keeps;
//! and keys are tried only where that costs little.

use instar_crypto::Hash;
use instar_image::FileOffset;
use instar_sim::Disk;
use serde_json::Value;

const MAGICS: [&[u8]; 2] = [b"LUKS\xba\xbe\0\x02", b"SKUL\xba\xbe\0\x02"];
const BINARY: usize = 4096;
const SIZE_MAX: u64 = 4 << 20;
const CHECKSUM: std::ops::Range<usize> = 448..512;
/// Most rounds of PBKDF2, and most KiB of all passes of Argon2.
const WORK_MAX: u64 = 10_000;

/// Where the header and its copy are, and what is there.
fn headers(disk: &Disk) -> Vec<(FileOffset, Vec<u8>)> {
    let mut found = Vec::new();
    for offset in std::iter::once(0).chain((14..=22).map(|bits| 1 << bits)).map(FileOffset::new) {
        let mut head = vec![0; 16];
        disk.read(offset, &mut head);
        let size = head.get(8..16).map_or(0, |b| b.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
        if MAGICS.iter().any(|magic| head.starts_with(magic)) && (BINARY as u64..=SIZE_MAX).contains(&size) {
            let mut whole = vec![0; size as usize];
            disk.read(offset, &mut whole);
            found.push((offset, whole));
        }
    }
    found
}

/// Gives each header the checksum that it should have.
pub fn mend(disk: &mut Disk) {
    for (offset, mut whole) in headers(disk) {
        whole[CHECKSUM].fill(0);
        let mut sum = Hash::Sha256.digest(&[&whole]);
        sum.resize(CHECKSUM.len(), 0);
        // A file does not become longer by it.
        if offset + BINARY as u64 <= FileOffset::new(disk.len()) {
            disk.write(offset + CHECKSUM.start as u64, &sum);
        }
    }
}

/// Whether there is such a header, and none whose keys cost much to try.
#[must_use]
pub fn is_cheap(disk: &Disk) -> bool {
    let headers = headers(disk);
    !headers.is_empty() && headers.iter().all(|(_, whole)| text_is_cheap(&whole[BINARY..]))
}

fn text_is_cheap(text: &[u8]) -> bool {
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    // What is no JSON, the reader cannot read either.
    let Ok(all) = serde_json::from_slice::<Value>(&text[..end]) else { return true };
    let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64).unwrap_or(0);
    let entries = |key: &str| all.get(key).and_then(Value::as_object).into_iter().flat_map(|map| map.values());
    let slots = entries("keyslots").filter_map(|slot| slot.get("kdf"));
    let work = slots
        .map(|kdf| number(kdf, "iterations").saturating_add(number(kdf, "time").saturating_mul(number(kdf, "memory"))));
    let digests = entries("digests").map(|digest| number(digest, "iterations"));
    work.chain(digests).fold(0, u64::saturating_add) <= WORK_MAX
}
