//! The counts in a refcount block: `1 << order` bits each, narrow ones from a byte's least significant bit on, wide
//! ones big-endian (spec, "Host cluster management").

/// Largest count of that width.
pub const fn max(order: u32) -> u64 {
    u64::MAX >> 64u32.saturating_sub(1 << order)
}

/// Count number `index`; 0 behind the end of the block.
pub fn get(bytes: &[u8], order: u32, index: usize) -> u64 {
    if order < 3 {
        let per_byte = 8usize >> order;
        let byte = bytes.get(index / per_byte).copied().unwrap_or(0);
        return u64::from(byte >> ((index % per_byte) << order)) & max(order);
    }
    let width = 1usize << (order - 3);
    let field = bytes.get(index.saturating_mul(width)..).and_then(|rest| rest.get(..width)).unwrap_or_default();
    field.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Sets count number `index`.
pub fn set(bytes: &mut [u8], order: u32, index: usize, count: u64) {
    if order < 3 {
        let per_byte = 8usize >> order;
        let shift = (index % per_byte) << order;
        if let Some(byte) = bytes.get_mut(index / per_byte) {
            let mask = (max(order) as u8) << shift;
            *byte = (*byte & !mask) | ((count as u8) << shift & mask);
        }
        return;
    }
    let width = 1usize << (order - 3);
    if let Some(field) = bytes.get_mut(index.saturating_mul(width)..).and_then(|rest| rest.get_mut(..width)) {
        field.copy_from_slice(count.to_be_bytes().get(8 - width..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_keeps_its_neighbours() {
        for order in 0..=6 {
            let mut block = [0; 64];
            for (index, count) in [(0, 1), (1, max(order)), (2, 0), (3, 1)] {
                set(&mut block, order, index, count);
            }
            let read: [u64; 5] = core::array::from_fn(|i| get(&block, order, i));
            assert_eq!(read, [1, max(order), 0, 1, 0], "order {order}");
        }
    }

    #[test]
    fn narrow_counts_begin_at_the_least_significant_bit() {
        let mut block = [0; 2];
        set(&mut block, 1, 1, 3);
        assert_eq!(block, [0b1100, 0]);
        set(&mut block, 4, 0, 0x1234);
        assert_eq!(block, [0x12, 0x34]);
    }
}
