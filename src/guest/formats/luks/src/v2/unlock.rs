//! From a password to the key of the disk.

use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use instar_crypto::{Crypter, Scheme, Zeroizing, af};
use instar_image::machine::Parallel;
use instar_image::{Error, OpenContext, Result};

use super::SECTOR;
use super::metadata::{Digest, Keyslot, Metadata, hash};
use crate::v2::metadata::Parts;
use instar_crypto::kdf::Kdf;

/// Bytes of key material that may be read (instar): a key of 64 bytes has 256,000.
const MATERIAL_MAX: u64 = 4 << 20;
const PRIORITY_NORMAL: u32 = 1;

/// Tries the password on all slots that hold a key of the segment, and gives what decrypts it. A slot that cannot be tried
/// is passed over; it is told of if none opens.
///
/// # Errors
/// None opens.
pub fn unlock(
    cx: &OpenContext<'_, '_>,
    metadata: &Metadata,
    segment: u32,
    scheme: Scheme,
    password: &[u8],
) -> Result<Crypter> {
    let mut slots: Vec<_> = metadata.keyslots.0.iter().filter(|(_, slot)| slot.kind == "luks2").collect();
    slots.sort_by_key(|(_, slot)| core::cmp::Reverse(slot.priority.unwrap_or(PRIORITY_NORMAL)));
    let mut wrong = Error::usage("Invalid password, cannot unlock any keyslot");
    let mut tried = true;
    for (number, slot) in slots {
        let Some(digest) = digest_of(metadata, *number, segment) else { continue };
        match key_in(cx, slot, password).and_then(|key| Ok(is_right(cx.source, digest, &key)?.then_some(key))) {
            Ok(Some(key)) => return scheme.with_key(&key),
            Ok(None) => {}
            Err(error) if tried => (wrong, tried) = (error.context(format!("key slot {number}")), false),
            Err(_) => {}
        }
    }
    Err(wrong)
}

/// The digest of keys that are in that slot and of that segment.
fn digest_of(metadata: &Metadata, slot: u32, segment: u32) -> Option<&Digest> {
    let (slot, segment) = (slot.to_string(), segment.to_string());
    let digests = metadata.digests.0.iter().map(|(_, digest)| digest);
    digests.filter(|d| d.kind == "pbkdf2").find(|d| d.keyslots.0.contains(&slot) && d.segments.0.contains(&segment))
}

/// The key that the slot holds, if the password is its own.
fn key_in(cx: &OpenContext<'_, '_>, slot: &Keyslot, password: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let Parts { kdf, salt, stripes, hash, area } = slot.parts()?;
    let (Some(encryption), Some(area_key)) = (&area.encryption, area.key_size) else {
        return Err(Error::malformed("its area is not encrypted"));
    };
    let scheme = Scheme::by_name(encryption)?;
    let split = u64::from(slot.key_size).saturating_mul(u64::from(stripes));
    let len = split.next_multiple_of(SECTOR);
    if split == 0 || len > area.size || len > MATERIAL_MAX || u64::from(area_key) > MATERIAL_MAX {
        return Err(Error::malformed("its key does not fit into its area"));
    }
    // A key that the cipher does not have is found out before a password is worked on.
    scheme.with_key(&vec![0; area_key as usize])?;
    let area_key = kdf.derive(cx.source, password, salt, area_key as usize)?;
    let mut material = Zeroizing::new(vec![0; len as usize]);
    cx.source.read(cx.device, area.offset, &mut material)?;
    scheme.with_key(&area_key)?.decrypt(0, &mut material);
    let material = material.get(..split as usize).unwrap_or_default();
    Ok(af::merge(hash, material, slot.key_size as usize))
}

fn is_right(workers: &dyn Parallel, digest: &Digest, key: &[u8]) -> Result<bool> {
    let kdf = Kdf::Pbkdf2 { hash: hash(&digest.hash)?, rounds: digest.iterations };
    // An empty digest would take any key for the right one.
    Ok(!digest.digest.is_empty() && *kdf.derive(workers, key, &digest.salt, digest.digest.len())? == digest.digest)
}
