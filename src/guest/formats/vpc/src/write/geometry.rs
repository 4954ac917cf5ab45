//! Cylinders, heads and sectors ("Appendix: CHS Calculation" of the specification), and the sizes that they can tell.

use crate::layout::MAX_GEOMETRY;

/// Cylinders, heads, sectors per track.
pub type Geometry = (u16, u8, u8);

/// The largest one.
pub const LARGEST: Geometry = (65535, 16, 255);

/// Sectors of a disk of that geometry.
pub const fn sectors(geometry: Geometry) -> u64 {
    geometry.0 as u64 * geometry.1 as u64 * geometry.2 as u64
}

/// The specification's geometry of a disk of so many sectors: not more than it has.
pub fn of(total: u64) -> Geometry {
    let total = total.min(MAX_GEOMETRY);
    let (heads, track, tracks) = if total >= 65535 * 16 * 63 {
        (16, 255, total / 255)
    } else {
        let tracks = total / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if tracks < heads * 1024 && heads <= 16 {
            (heads, 17, tracks)
        } else if total / 31 < 16 * 1024 {
            (16, 31, total / 31)
        } else {
            (16, 63, total / 63)
        }
    };
    // All three are bounded by the bounds of `total`.
    (u16::try_from(tracks / heads).unwrap_or(u16::MAX), heads as u8, track)
}

/// The smallest geometry found that has `total` sectors at least: QEMU's way, which tries ever larger disks.
pub fn at_least(total: u64) -> Geometry {
    let mut found = (0, 0, 0);
    let mut more = 0;
    while total.min(MAX_GEOMETRY) > sectors(found) {
        found = of(total + more);
        more += 1;
    }
    found
}

/// The geometry that has `total` sectors; where there is none, the largest, by which nobody goes.
pub fn exactly(total: u64) -> Geometry {
    let found = at_least(total);
    if sectors(found) == total { found } else { LARGEST }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the stock tool makes disks of these sizes.
    #[test]
    fn sizes_are_rounded_up_as_qemu_does() {
        for (total, geometry) in [
            (0, (0, 0, 0)),
            (1, (1, 4, 17)),
            (20480, (302, 4, 17)),
            (69632, (820, 5, 17)),
            (104_349, (877, 7, 17)),
            (65535 * 16 * 63 - 1, (16191, 16, 255)),
            (65535 * 16 * 63 + 1, (16192, 16, 255)),
            (127 << 21, (65279, 16, 255)),
            (MAX_GEOMETRY, LARGEST),
            (MAX_GEOMETRY + 1, LARGEST),
        ] {
            assert_eq!(at_least(total), geometry, "{total}");
        }
    }
}
