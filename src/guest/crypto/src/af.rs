//! The anti-forensic splitter: a key in so many stripes that losing one of them loses the key (LUKS On-Disk Format
//! Specification 1.2.3, section 2.4).

use alloc::vec;

use zeroize::Zeroizing;

use crate::Hash;

/// Each digest-long part of the key replaced by the digest of its number (big-endian) and itself; the last may be short.
fn diffuse(hash: Hash, key: &mut [u8]) {
    for (number, part) in (0u32..).zip(key.chunks_mut(hash.digest_len())) {
        let digest = Zeroizing::new(hash.digest(&[&number.to_be_bytes(), part]));
        part.iter_mut().zip(digest.iter()).for_each(|(byte, new)| *byte = *new);
    }
}

fn mix(key: &mut [u8], stripe: &[u8]) {
    key.iter_mut().zip(stripe).for_each(|(byte, mask)| *byte ^= mask);
}

/// The key of `len` bytes whose stripes are `material`.
#[must_use]
pub fn merge(hash: Hash, material: &[u8], len: usize) -> Zeroizing<alloc::vec::Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; len]);
    let mut stripes = material.chunks_exact(len.max(1)).peekable();
    while let Some(stripe) = stripes.next() {
        mix(&mut key, stripe);
        if stripes.peek().is_some() {
            diffuse(hash, &mut key);
        }
    }
    key
}

/// Makes stripes of `key` in `material`, which is a multiple of it long and random.
pub fn split(hash: Hash, key: &[u8], material: &mut [u8]) {
    let mut sum = Zeroizing::new(vec![0; key.len()]);
    let last = material.len().saturating_sub(key.len());
    let (random, last) = material.split_at_mut(last);
    for stripe in random.chunks_exact(key.len().max(1)) {
        mix(&mut sum, stripe);
        diffuse(hash, &mut sum);
    }
    last.copy_from_slice(key);
    mix(last, &sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_split_is_merged_again() {
        for len in [16, 20, 32, 64] {
            let key: alloc::vec::Vec<u8> = (0..len).collect();
            let mut material: alloc::vec::Vec<u8> = (0..u32::from(len) * 40).map(|i| (i * 7 + i / 3) as u8).collect();
            split(Hash::Sha256, &key, &mut material);
            assert_eq!(merge(Hash::Sha256, &material, usize::from(len)).as_slice(), key);
            material[5] ^= 1;
            assert_ne!(merge(Hash::Sha256, &material, usize::from(len)).as_slice(), key);
        }
    }
}
