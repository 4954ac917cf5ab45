//! What a file looks like that is probed.

use crate::layout::{MAGIC_COWD, MAGIC_SPARSE};

/// How much of a text descriptor `qemu-img` looks at, in bytes.
const TEXT_MAX: usize = 512;
/// Lines that say that a text is a descriptor; they follow comments and blank lines only.
const VERSION_LINES: [&[u8]; 6] =
    [b"version=1\n", b"version=2\n", b"version=3\n", b"version=1\r\n", b"version=2\r\n", b"version=3\r\n"];

/// Whether a file with that beginning is a vmdk.
pub fn is_vmdk(head: &[u8]) -> bool {
    head.starts_with(MAGIC_SPARSE) || head.starts_with(MAGIC_COWD) || is_descriptor(head)
}

/// Whether `text` is a descriptor. Blank are only lines that begin with a space: a quirk of `qemu-img`.
fn is_descriptor(text: &[u8]) -> bool {
    let mut rest = text.get(..TEXT_MAX).unwrap_or(text);
    loop {
        let line_end = || rest.iter().position(|b| *b == b'\n');
        rest = match rest.first() {
            Some(b'#') => match line_end() {
                Some(end) => rest.get(end.saturating_add(1)..).unwrap_or_default(),
                None => return false,
            },
            Some(b' ') => {
                let spaces = rest.iter().take_while(|b| **b == b' ').count();
                let line = rest.get(spaces..).unwrap_or_default();
                match line.strip_prefix(b"\r").unwrap_or(line).strip_prefix(b"\n") {
                    Some(next) => next,
                    None => return false,
                }
            }
            _ => return VERSION_LINES.iter().any(|l| rest.starts_with(l)),
        };
    }
}
