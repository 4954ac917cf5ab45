//! Where block tables are: encoded in the property list, or in the resource fork of older images. Both are read in
//! pieces, a byte at a time goes on.

use instar_image::table::{Span, TableCache};
use instar_image::{OpenContext, Result};

use crate::chunks::{Chunks, Table};
use crate::invalid;
use crate::layout::PLIST_MAX;
use crate::trailer::Range;

const BEGIN: &[u8] = b"<data>";
const END: &[u8] = b"</data>";

/// The bytes of a range, one after another.
struct Bytes<'a> {
    pieces: TableCache<'a, 1>,
    span: Span,
    at: u64,
}

impl<'a> Bytes<'a> {
    fn new(cx: &OpenContext<'a, '_>, (offset, count): Range) -> Self {
        Self { pieces: TableCache::new(cx.source, cx.device), span: Span { offset, count }, at: 0 }
    }

    /// Gives the next `len` bytes to `take`, or until it is content.
    fn each(&mut self, len: u64, mut take: impl FnMut(u8) -> Result<bool>) -> Result<()> {
        let end = self.at.saturating_add(len).min(self.span.count);
        while self.at < end {
            let left = (end - self.at) as usize;
            for [byte] in self.pieces.from(self.span, self.at)?.iter().take(left) {
                self.at += 1;
                if !take(*byte)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn be32(&mut self) -> Result<u64> {
        let mut number = 0;
        self.each(4, |byte| {
            number = number << 8 | u64::from(byte);
            Ok(true)
        })?;
        Ok(number)
    }
}

/// Groups of four characters for three bytes. What is no such character is passed over.
#[derive(Default)]
struct Base64 {
    held: u32,
    count: u32,
    /// The last two characters.
    last: [u8; 2],
}

impl Base64 {
    fn push(&mut self, character: u8, mut give: impl FnMut(u8) -> Result<()>) -> Result<()> {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => 0,
            _ => return Ok(()),
        };
        self.held = self.held << 6 | u32::from(value);
        self.last = [character, self.last[0]];
        self.count += 1;
        if self.count < 4 {
            return Ok(());
        }
        let [_, a, b, c] = self.held.to_be_bytes();
        (self.count, self.held) = (0, 0);
        give(a)?;
        if self.last[1] != b'=' {
            give(b)?;
        }
        if self.last[0] != b'=' { give(c) } else { Ok(()) }
    }
}

/// Reads the tables of the property list: all that is between `<data>` and `</data>`.
pub fn from_plist(cx: &OpenContext<'_, '_>, range: Range, data: u64, adc: bool, chunks: &mut Chunks) -> Result<()> {
    if range.1 > PLIST_MAX {
        return Err(invalid(cx));
    }
    let mut text = Bytes::new(cx, range);
    loop {
        if !skip_to_data(&mut text)? {
            return Ok(());
        }
        let (mut table, mut decoder) = (Table::new(chunks, data, adc), Base64::default());
        let (mut matched, mut ended) = (0, false);
        text.each(u64::MAX, |byte| {
            if byte == 0 {
                return Ok(false);
            }
            if END.get(matched) == Some(&byte) {
                matched += 1;
                ended = matched == END.len();
                return Ok(!ended);
            }
            // Not the end after all: what looked like it is data, or nothing.
            for character in END.iter().take(matched) {
                decoder.push(*character, |b| table.push(b))?;
            }
            matched = usize::from(byte == b'<');
            if matched == 0 {
                decoder.push(byte, |b| table.push(b))?;
            }
            Ok(true)
        })?;
        if !ended {
            return Err(invalid(cx));
        }
    }
}

fn skip_to_data(text: &mut Bytes<'_>) -> Result<bool> {
    let mut matched = 0;
    text.each(u64::MAX, |byte| {
        matched = match BEGIN.get(matched) {
            Some(expected) if *expected == byte => matched + 1,
            _ => usize::from(byte == b'<'),
        };
        Ok(byte != 0 && matched < BEGIN.len())
    })?;
    Ok(matched == BEGIN.len())
}

/// Reads the tables of the resource fork: its data is resources one behind another, each behind its length.
pub fn from_resources(cx: &OpenContext<'_, '_>, range: Range, data: u64, adc: bool, chunks: &mut Chunks) -> Result<()> {
    let mut head = Bytes::new(cx, range);
    let start = head.be32()?;
    head.be32()?;
    let len = head.be32()?;
    if start > range.1 {
        return Err(invalid(cx));
    }
    if len == 0 || len > range.1 - start {
        return Err(invalid(cx));
    }
    // The last resource may end behind the data: what bounds it is counted without its length.
    let mut bytes = Bytes::new(cx, (range.0 + start, len + 4));
    while bytes.at < len {
        let left = len - bytes.at;
        let size = bytes.be32()?;
        if size == 0 || size > left {
            return Err(invalid(cx));
        }
        let mut table = Table::new(chunks, data, adc);
        bytes.each(size, |byte| table.push(byte).map(|()| true))?;
    }
    Ok(())
}
