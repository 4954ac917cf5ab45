//! Bytes of unknown origin on their way to a terminal.

use std::fmt::Write;

/// Characters that are not seen themselves and change how others are shown (general categories Cf, Zl and Zp of Unicode
/// 16): the order in which a line reads, what joins what, where it breaks.
const FORMATTING: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{2064}'),
    ('\u{2066}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0001}', '\u{e0001}'),
    ('\u{e0020}', '\u{e007f}'),
];

fn is_formatting(c: char) -> bool {
    !c.is_ascii() && FORMATTING.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Text for people: control characters (C0, DEL, C1) as `\xNN`, those that format as `\u{NNNN}`, what is not UTF-8 as
/// U+FFFD; everything else as it is.
#[must_use]
pub fn terminal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        } else if is_formatting(c) {
            let _ = write!(out, "\\u{{{:04x}}}", u32::from(c));
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
        assert_eq!(terminal("a\u{202e}b\u{2066}\u{ad}\u{e0041}".as_bytes()), "a\\u{202e}b\\u{2066}\\u{00ad}\\u{e0041}");
        assert_eq!(lines(b"a\nb\x1b"), "a\nb\\x1b");
    }
}
