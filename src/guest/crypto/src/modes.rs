//! Modes of operation over whole sectors: ECB, CBC, CTR (NIST SP 800-38A) and XTS (IEEE 1619).

use crate::blocks::Blocks;

/// Bytes of the ciphers that XTS and CTR are for.
const WIDE: usize = 16;
/// Bytes that are worked on at a time: enough for the cipher to run at full speed, small enough for the first cache.
const BATCH: usize = 4096;

/// Encrypts or decrypts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the image.
    Encrypt,
    /// From it.
    Decrypt,
}

/// Each block by itself.
pub fn ecb(blocks: &dyn Blocks, way: Way, data: &mut [u8]) {
    match way {
        Way::Encrypt => blocks.encrypt(data),
        Way::Decrypt => blocks.decrypt(data),
    }
}

/// One sector; `iv` is one block long.
pub fn cbc(blocks: &dyn Blocks, way: Way, iv: &[u8], data: &mut [u8]) {
    let width = iv.len();
    if way == Way::Encrypt {
        let mut before = [0; WIDE];
        let before = before.get_mut(..width).unwrap_or_default();
        before.copy_from_slice(iv);
        for block in data.chunks_exact_mut(width) {
            mix(block, before);
            blocks.encrypt(block);
            before.copy_from_slice(block);
        }
        return;
    }
    let mut carried = [0; WIDE];
    let carried = carried.get_mut(..width).unwrap_or_default();
    carried.copy_from_slice(iv);
    let mut stored = [0; BATCH];
    for part in data.chunks_mut(BATCH) {
        let stored = stored.get_mut(..part.len()).unwrap_or_default();
        stored.copy_from_slice(part);
        blocks.decrypt(part);
        let (first, rest) = part.split_at_mut(width.min(part.len()));
        mix(first, carried);
        mix(rest, stored);
        carried.copy_from_slice(stored.rchunks_exact(width).next().unwrap_or_default());
    }
}

/// One sector; the counter is the whole `iv`, big-endian, for wide blocks and narrow ones.
pub fn ctr(blocks: &dyn Blocks, iv: &[u8], data: &mut [u8]) {
    let width = iv.len();
    let mut counter = iv.iter().fold(0u128, |n, byte| n << 8 | u128::from(*byte));
    let mut stream = [0; BATCH];
    for part in data.chunks_mut(BATCH) {
        let stream = stream.get_mut(..part.len().next_multiple_of(width)).unwrap_or_default();
        for block in stream.chunks_exact_mut(width) {
            let bytes = counter.to_be_bytes();
            block.copy_from_slice(bytes.get(WIDE - width..).unwrap_or_default());
            counter = counter.wrapping_add(1);
        }
        blocks.encrypt(stream);
        mix(part, stream);
    }
}

/// Sectors of `sector` bytes; `iv` gives the initialisation vector of each by its number in `data`.
pub fn xts(
    blocks: &dyn Blocks,
    tweaks: &dyn Blocks,
    way: Way,
    sector: usize,
    iv: &dyn Fn(usize) -> [u8; WIDE],
    data: &mut [u8],
) {
    let mut masks = [0u8; BATCH];
    let per_batch = (BATCH / sector).max(1);
    for (batch, part) in data.chunks_mut(per_batch * sector).enumerate() {
        let mut starts = [0u8; BATCH / 512 * WIDE];
        let starts = starts.get_mut(..part.len().div_ceil(sector) * WIDE).unwrap_or_default();
        let (starts, _) = starts.as_chunks_mut::<WIDE>();
        for (i, start) in starts.iter_mut().enumerate() {
            *start = iv(batch * per_batch + i);
        }
        tweaks.encrypt(starts.as_flattened_mut());
        for (masks, start) in masks.chunks_mut(sector).zip(&*starts) {
            let mut tweak = u128::from_le_bytes(*start);
            for mask in masks.as_chunks_mut::<WIDE>().0 {
                *mask = tweak.to_le_bytes();
                tweak = (tweak << 1) ^ ((tweak >> 127) * 0x87);
            }
        }
        let masks = masks.get(..part.len()).unwrap_or_default();
        mix(part, masks);
        ecb(blocks, way, part);
        mix(part, masks);
    }
}

fn mix(data: &mut [u8], mask: &[u8]) {
    data.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}
