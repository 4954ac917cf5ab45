//! Which part of the file the disk is: `--image-opts driver=raw,offset=..,size=..`.

use alloc::format;
use alloc::string::String;

use instar_image::options::check_driver_options;
use instar_image::{Error, FileOffset, Result};

use crate::SECTOR;

/// A part of a file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins.
    pub offset: FileOffset,
    /// Its length, whole sectors; the last may reach past the end of the file.
    pub size: u64,
}

impl Part {
    /// All of a file of `len` bytes, unless the options say otherwise.
    pub fn of(len: u64, options: &[(String, String)]) -> Result<Self> {
        check_driver_options("raw", options, &["offset", "size"])?;
        let (mut offset, mut wanted) = (0, None);
        for (key, value) in options {
            match key.as_str() {
                "offset" => offset = number(key, value)?,
                "size" => wanted = Some(number(key, value)?),
                _ => {}
            }
        }
        let whole = sectors(len)?;
        let left = whole.checked_sub(offset).ok_or_else(|| {
            Error::usage(format!("Offset ({offset}) cannot be greater than size of the containing file ({whole})"))
        })?;
        let size = match wanted {
            None => sectors(left)?,
            Some(size) if size > left => {
                // Two spaces, as in QEMU.
                return Err(Error::usage(format!(
                    "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of \
                     the containing file ({whole})"
                )));
            }
            Some(size) if !size.is_multiple_of(SECTOR) => {
                return Err(Error::usage(format!("Specified size is not multiple of {SECTOR}")));
            }
            Some(size) => size,
        };
        Ok(Self { offset: FileOffset::new(offset), size })
    }
}

fn sectors(len: u64) -> Result<u64> {
    let whole = len.checked_next_multiple_of(SECTOR).filter(|n| i64::try_from(*n).is_ok());
    whole.ok_or_else(|| Error::limit("File too large"))
}

/// A whole number of bytes, with or without a binary suffix.
fn number(key: &str, value: &str) -> Result<u64> {
    const SUFFIXES: &str = "bkmgtpe";
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = value.get(digits.len()..).unwrap_or_default().to_ascii_lowercase();
    let power = match suffix.as_str() {
        "" => Some(0),
        one => SUFFIXES.find(one).filter(|_| one.len() == 1),
    };
    let unsigned = digits.strip_prefix('-').unwrap_or(digits);
    let written = !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit());
    let Some(power) = power.filter(|_| written).and_then(|p| u32::try_from(p).ok()) else {
        return Err(Error::usage(format!(
            "Parameter '{key}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, \
             mega-, giga-, tera-, peta-\nand exabytes, respectively."
        )));
    };
    let scaled = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1024u64.checked_pow(power)?));
    scaled.ok_or_else(|| Error::usage(format!("Value '{value}' is out of range for parameter '{key}'")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn part(len: u64, options: &[(&str, &str)]) -> core::result::Result<(u64, u64), String> {
        let options: Vec<_> = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Part::of(len, &options).map(|p| (p.offset.get(), p.size)).map_err(|e| e.message)
    }

    // Expected values: `qemu-img info --image-opts driver=raw,..` (10.0.2) on a file of 10000 bytes.
    #[test]
    fn parts() {
        assert_eq!(part(10000, &[]), Ok((0, 10240)));
        assert_eq!(part(10000, &[("offset", "512"), ("size", "1024")]), Ok((512, 1024)));
        assert_eq!(part(10000, &[("offset", "1000")]), Ok((1000, 9728)));
        assert_eq!(part(10000, &[("offset", "1")]), Ok((1, 10240)));
        assert_eq!(part(10000, &[("offset", "1k")]), Ok((1024, 9216)));
        assert_eq!(part(10000, &[("offset", "10k")]), Ok((10240, 0)));
        assert_eq!(part(10000, &[("size", "10240")]), Ok((0, 10240)));
    }

    #[test]
    fn refusals() {
        let says = |options: &[(&str, &str)], text: &str| {
            let error = part(10000, options).expect_err("it is refused");
            assert!(error.starts_with(text), "{error}");
        };
        says(&[("size", "1000")], "Specified size is not multiple of 512");
        says(&[("offset", "10241")], "Offset (10241) cannot be greater than size of the containing file (10240)");
        says(&[("offset", "512"), ("size", "10240")], "The sum of offset (512) and size (10240) has to be");
        says(&[("offset", "-1")], "Value '-1' is out of range for parameter 'offset'");
        says(&[("offset", "9999999999999999999999")], "Value '9999999999999999999999' is out of range");
        for junk in ["", "abc", "-", "1kb", "1x"] {
            says(&[("offset", junk)], "Parameter 'offset' expects a non-negative number below 2^64");
        }
        says(&[("foo", "1")], "Block format 'raw' does not support the option 'foo'");
    }
}
