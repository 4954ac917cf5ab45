//! Sizes as people read them.

/// C's `%.{digits}g`.
fn general(value: f64, digits: usize) -> String {
    let scientific = format!("{:.*e}", digits - 1, value);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |s: &str| {
        if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_string() } else { s.to_string() }
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(digits as i32 - 1 - exponent).unwrap_or(0);
    trim(&format!("{value:.decimals$}"))
}

/// `10 MiB`: three digits and the largest unit of which there are at least 0.977 (1000 / 1024).
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let scaled = bytes as f64 / (1000.0 / 1024.0);
    // The binary exponent as frexp(3) gives it: the value is below two to that power.
    let exponent = if bytes == 0 { 0 } else { (scaled.to_bits() >> 52) as i32 - 1022 };
    let unit = (exponent - 1).max(0) / 10;
    let value = bytes as f64 / (1u64 << (unit * 10)) as f64;
    format!("{} {}", general(value, 3), UNITS[usize::try_from(unit).unwrap_or(0).min(6)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `qemu-img info` (10.0.2) prints for raw files of these lengths.
    #[test]
    fn sizes_print_as_the_stock_tool_prints_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1024, "1 KiB"),
            (1_048_576, "1 MiB"),
            (197_120, "192 KiB"),
            (10_485_760, "10 MiB"),
            (1_000, "0.977 KiB"),
            (1_536, "1.5 KiB"),
            (1_023_693, "1e+03 KiB"),
            (1 << 40, "1 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }
}
