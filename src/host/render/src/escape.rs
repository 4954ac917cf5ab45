//! Bytes of unknown origin on their way to a terminal.

use std::fmt::Write;

/// Text for people: control characters (C0, DEL, C1) as `\xNN`, what is not UTF-8 as U+FFFD; everything else as it is.
#[must_use]
pub fn terminal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// A message of several lines: as [`terminal`], but its line ends stay.
#[must_use]
pub fn lines(bytes: &[u8]) -> String {
    bytes.split(|b| *b == b'\n').map(terminal).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_gets_through() {
        assert_eq!(terminal(b"a\x1b[31m\x07\x7f\xc2\x9b\n"), "a\\x1b[31m\\x07\\x7f\\x9b\\x0a");
        assert_eq!(terminal("höhe €".as_bytes()), "höhe €");
        assert_eq!(terminal(b"\xff"), "\u{fffd}");
        assert_eq!(lines(b"a\nb\x1b"), "a\nb\\x1b");
    }
}
