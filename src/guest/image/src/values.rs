//! What stands behind the `=` of an option, read as qemu-img reads it.

use crate::{Error, Result};

/// Reads a truth value.
///
/// # Errors
/// In qemu-img's words, naming the parameter.
pub fn boolean(name: &str, text: &str) -> Result<bool> {
    match text {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Error::usage(alloc::format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}

/// Reads a size: bytes, or a number (a fraction, too) with one of the suffixes b k M G T P E, or hexadecimal bytes.
///
/// # Errors
/// In qemu-img's words, naming the parameter.
pub fn size(name: &str, text: &str) -> Result<u64> {
    let wrong = || {
        Error::usage(alloc::format!(
            "Parameter '{name}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means \
             kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
        ))
    };
    let range = || Error::usage(alloc::format!("Value '{text}' is out of range for parameter '{name}'"));
    let (below_zero, unsigned) = signed(text);
    let value = match unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) && !digits.is_empty() => {
            u64::from_str_radix(digits, 16).map_err(|_| range())?
        }
        Some(_) => return Err(wrong()),
        None => decimal(unsigned).ok_or_else(wrong)?.ok_or_else(range)?,
    };
    if below_zero && value != 0 { Err(range()) } else { Ok(value) }
}

/// Whether there is a minus, and what follows blanks and sign: numbers are read as C does.
fn signed(text: &str) -> (bool, &str) {
    let text = text.trim_ascii_start();
    (text.starts_with('-'), text.strip_prefix(['-', '+']).unwrap_or(text))
}

/// A decimal number with a suffix. `None`: it is none. `Some(None)`: it has more than 64 bits.
fn decimal(text: &str) -> Option<Option<u64>> {
    const SUFFIXES: &str = "bkmgtpe";
    /// Digits behind the point that can matter: more than a double keeps.
    const FRACTION_DIGITS: usize = 18;
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.get(number.len()..)?.to_ascii_lowercase();
    let shift = match suffix.as_str() {
        "" => 0,
        one if one.len() == 1 => u32::try_from(SUFFIXES.find(one)?).ok()?.checked_mul(10)?,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(w, f)| (w, Some(f)));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let part = fraction.unwrap_or_default();
    if !digits(whole) || !digits(part) || (whole.is_empty() && part.is_empty()) || (fraction.is_some() && shift == 0) {
        return None;
    }
    let kept = part.get(..part.len().min(FRACTION_DIGITS))?;
    let below = u32::try_from(kept.len()).ok().and_then(|n| 10u128.checked_pow(n))?;
    let above = kept.parse::<u128>().unwrap_or(0);
    // Rounded to the nearest byte.
    let rest = above.checked_shl(shift).and_then(|n| n.checked_add(below / 2)).map(|n| n / below)?;
    let whole = if whole.is_empty() { Some(0) } else { whole.parse::<u64>().ok() };
    Some(whole.and_then(|n| n.checked_mul(1 << shift)?.checked_add(u64::try_from(rest).ok()?)))
}

/// Reads a number: decimal or hexadecimal; a negative one wraps, as in QEMU.
///
/// # Errors
/// In qemu-img's words, naming the parameter.
pub fn number(name: &str, text: &str) -> Result<u64> {
    let (below_zero, unsigned) = signed(text);
    let (digits, radix) = unsigned.strip_prefix("0x").map_or((unsigned, 10), |digits| (digits, 16));
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(Error::usage(alloc::format!("Parameter '{name}' expects a number")));
    }
    let value = u64::from_str_radix(digits, radix)
        .map_err(|_| Error::usage(alloc::format!("Value '{text}' is too large for parameter '{name}'")))?;
    Ok(if below_zero { value.wrapping_neg() } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: what `qemu-img create -o size=..` (10.0.2) says.
    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("0x10", 16),
            ("1.5M", 3 << 19),
            ("8E", 8 << 60),
            (".5k", 512),
            ("7b", 7),
            ("-0", 0),
            (" +1k", 1024),
        ] {
            assert_eq!(size("size", text).map_err(|e| e.message), Ok(bytes), "{text}");
        }
        for text in ["-1", "16E", "99999999999999999999"] {
            let error = size("size", text).expect_err("it is too large");
            assert_eq!(error.message, alloc::format!("Value '{text}' is out of range for parameter 'size'"));
        }
        for text in ["", "+-1", "1k ", "foo", "k", "1kk", "1.5", ".", "0x", "1 k"] {
            let error = size("size", text).expect_err("it is no size");
            assert!(error.message.starts_with("Parameter 'size' expects a non-negative number"), "{text}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number("n", "0x10").ok(), Some(16));
        assert_eq!(number("n", "-1").ok(), Some(u64::MAX));
        let says = |text| number("n", text).expect_err("it is none").message;
        assert_eq!(says("foo"), "Parameter 'n' expects a number");
        assert_eq!(says("99999999999999999999"), "Value '99999999999999999999' is too large for parameter 'n'");
    }
}
