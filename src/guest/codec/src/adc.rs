//! ADC (Apple Data Compression): runs of plain bytes, and copies of what came before.
//!
//! Source: the descriptions of the format in libdmg-hfsplus and 7-Zip: a first byte with bit 7 is followed by 1 to 128
//! plain bytes; one with bit 6 by two bytes of distance, for 4 to 67 bytes; any other holds 3 to 18 as length and the
//! upper two bits of the distance.

use instar_image::Result;

/// Decompresses `src` until it or the room in `dst` ends, and says how many bytes came out.
///
/// # Errors
/// Where the bytes are no stream: cut short, longer than `dst`, or a copy from before the beginning.
pub fn adc_decode(src: &[u8], dst: &mut [u8]) -> Result<usize> {
    let (mut from, mut to) = (0, 0);
    while to < dst.len() {
        let Some(&first) = src.get(from) else { break };
        let byte = |i: usize| src.get(from + i).map(|b| usize::from(*b));
        if first & 0x80 != 0 {
            let len = usize::from(first & 0x7f) + 1;
            let plain = src.get(from + 1..from + 1 + len).ok_or_else(broken)?;
            dst.get_mut(to..to + len).ok_or_else(broken)?.copy_from_slice(plain);
            (from, to) = (from + 1 + len, to + len);
            continue;
        }
        let (len, distance, used) = if first & 0x40 != 0 {
            let far = byte(1).zip(byte(2)).map(|(high, low)| high << 8 | low);
            (usize::from(first & 0x3f) + 4, far, 3)
        } else {
            let near = byte(1).map(|low| usize::from(first & 3) << 8 | low);
            (usize::from(first >> 2) + 3, near, 2)
        };
        crate::copy_match(dst, to, distance.ok_or_else(broken)? + 1, len).ok_or_else(broken)?;
        (from, to) = (from + used, to + len);
    }
    Ok(to)
}

fn broken() -> instar_image::Error {
    crate::broken("ADC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms() {
        let mut out = [0; 22];
        let src =
            [0x82, b'a', b'b', b'c', 0x04, 0x02, 0x41, 0x00, 0x03, 0x84, b'1', b'2', b'3', b'4', b'5', 0x08, 0x00];
        assert_eq!(adc_decode(&src, &mut out).expect("valid"), 22);
        assert_eq!(&out, b"abcabcaabcaa1234555555");
    }

    #[test]
    fn nothing_past_either_end() {
        let mut out = [0; 8];
        for src in [&[0x88, 1][..], &[0x40, 0], &[0x00], &[0x00, 0x00], &[0x80, 1, 0x00, 0x01], &[0x80, 1, 0x7f, 0, 0]]
        {
            assert!(adc_decode(src, &mut out).is_err(), "{src:?}");
        }
        assert_eq!(adc_decode(&[0x81, 1, 2], &mut out).expect("short"), 2);
    }
}
