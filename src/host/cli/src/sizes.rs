//! Sizes on the command line, as QEMU reads them: bytes, or a number with one of the suffixes b k M G T P E (of 1024, in
//! either case; `b` is bytes), or hexadecimal bytes.

/// The size in bytes; `None` for what is no size or has more than 64 bits.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let text = plain(text);
    if let Some(hexadecimal) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hexadecimal, 16).ok();
    }
    let (number, shift) = match text.char_indices().next_back()? {
        (at, 'b' | 'B') => (&text[..at], 0),
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        (at, 't' | 'T') => (&text[..at], 40),
        (at, 'p' | 'P') => (&text[..at], 50),
        (at, 'e' | 'E') => (&text[..at], 60),
        _ => (text, 0),
    };
    let Some((whole, fraction)) = number.split_once('.') else {
        return digits(number)?.parse::<u64>().ok()?.checked_mul(1 << shift);
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { digits(whole)?.parse().ok()? };
    let part: f64 = format!("0.{}", if fraction.is_empty() { "0" } else { digits(fraction)? }).parse().ok()?;
    // There is no part of a byte.
    if shift == 0 && part > 0.0 {
        return None;
    }
    let part = (part * (1u64 << shift) as f64 + 0.5) as u64;
    whole.checked_mul(1 << shift)?.checked_add(part)
}

/// What C takes for a blank.
const BLANKS: [char; 6] = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];

/// Without what QEMU lets stand before a number: blanks, and a plus sign.
fn plain(text: &str) -> &str {
    let text = text.trim_start_matches(BLANKS);
    text.strip_prefix('+').unwrap_or(text)
}

/// Whether the text is a whole number below zero, without a suffix: with one, it is no number to QEMU.
#[must_use]
pub fn is_negative(text: &str) -> bool {
    let text = text.trim_start_matches(BLANKS);
    text.strip_prefix('-').is_some_and(|text| digits(text).is_some())
}

/// Whether the text is a whole number at all, however large.
#[must_use]
pub fn is_number(text: &str) -> bool {
    let text = plain(text);
    digits(text.strip_suffix(|c: char| "bBkKmMgGtTpPeE".contains(c)).unwrap_or(text)).is_some()
}

/// Whether the text is a number of bytes, but one of more than 64 bits (a number that is too long before its suffix is
/// applied is none to QEMU).
#[must_use]
pub fn is_out_of_range(text: &str) -> bool {
    let text = plain(text);
    let (hexadecimal, decimal) = (text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")), digits(text).is_some());
    if let Some(digits) = hexadecimal {
        return digits.bytes().all(|b| b.is_ascii_hexdigit()) && u128::from_str_radix(digits, 16).is_ok();
    }
    decimal || text.get(..text.len().saturating_sub(1)).is_some_and(|n| n.parse::<u64>().is_ok() && is_number(text))
}

fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::{is_negative, is_out_of_range, parse};

    #[test]
    fn what_is_too_much_is_a_number_all_the_same() {
        for text in ["16E", "18446744073709551616", "99999999999999999999", "0x1ffffffffffffffff"] {
            assert!(parse(text).is_none() && is_out_of_range(text), "{text}");
        }
        assert!(["99999999999999999999k", "x", "", "k", "0x", "1.5"].iter().all(|text| !is_out_of_range(text)));
    }

    #[test]
    fn what_is_below_zero() {
        assert!(["-1", " -0", "-99999999999999999999"].iter().all(|text| is_negative(text)));
        assert!(["-1M", "-1b", "-", "- 1", "-0x1", "-1.5", "1", "+-1"].iter().all(|text| !is_negative(text)));
    }

    #[test]
    fn sizes_read_as_qemu_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("33554432b", 33_554_432),
            ("4k", 4096),
            ("65536K", 67_108_864),
            ("1.5G", 1_610_612_736),
            ("1.M", 1_048_576),
            (".5k", 512),
            ("1024.0", 1024),
            ("1024.00b", 1024),
            ("5.", 5),
            (".0", 0),
            ("0x10", 16),
            ("7E", 7 << 60),
            ("+1k", 1024),
            (" \t+0x10", 16),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "k",
            "1x",
            "1GiB",
            "1.5",
            ".5b",
            ".",
            ".b",
            "1.0.0",
            "0x1.0",
            "-1",
            "++1",
            "+ 1",
            "1 ",
            "16E",
            "1e3",
            "99999999999999999999",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
