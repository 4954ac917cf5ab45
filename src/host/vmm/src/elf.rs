//! The guest program: our own file, made by our own build, so a file that does not fit is a bug, not an attack.

use crate::layout::{PAGE, RW_BASE};

/// One loadable segment. `offset`: in the file, a multiple of the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_len: u64,
    /// Address.
    pub addr: u64,
    /// Bytes in memory.
    pub len: u64,
}

/// The program: text, read-only data, data.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    /// The file.
    pub file: &'a [u8],
    /// First instruction.
    pub entry: u64,
    /// R-X
    pub text: Segment,
    /// How much of its beginning nearly every command runs through, in bytes.
    pub often_len: u64,
    /// R--
    pub rodata: Segment,
    /// RW-
    pub data: Segment,
}

fn number<const N: usize>(file: &[u8], at: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(file.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(bytes))
}

impl<'a> Program<'a> {
    /// Reads the program headers (ELF-64, System V gABI chapter 5).
    #[must_use]
    pub fn parse(file: &'a [u8]) -> Option<Self> {
        const PT_LOAD: u64 = 1;
        if file.get(..5)? != b"\x7fELF\x02" {
            return None;
        }
        let (table, count) = (number::<8>(file, 32)? as usize, number::<2>(file, 56)? as usize);
        let (mut by_rights, mut often): ([Option<Segment>; 3], _) = ([None; 3], None);
        for header in (0..count).map(|i| table + 56 * i) {
            if number::<4>(file, header)? != PT_LOAD {
                continue;
            }
            let segment = Segment {
                offset: number::<8>(file, header + 8)?,
                addr: number::<8>(file, header + 16)?,
                file_len: number::<8>(file, header + 32)?,
                len: number::<8>(file, header + 40)?,
            };
            let slot = match number::<4>(file, header + 4)? {
                5 => 0,
                4 => 1,
                6 => 2,
                _ => return None,
            };
            let fits = segment.offset.is_multiple_of(PAGE)
                && segment.addr.is_multiple_of(PAGE)
                && segment.file_len <= segment.len
                && segment.addr.checked_add(segment.len)? < RW_BASE
                && segment.offset.checked_add(segment.file_len)? <= file.len() as u64;
            let before = by_rights[slot].replace(segment);
            if !fits || before.is_some() && (slot != 0 || std::mem::replace(&mut often, before).is_some()) {
                return None;
            }
        }
        let [Some(mut text), Some(rodata), Some(data)] = by_rights else { return None };
        let often_len = often.map_or(0, |often| text.addr.saturating_sub(often.addr));
        if let Some(often) = often {
            // One after the other, in memory as in the file: together they are the text.
            if often.len > often_len || often.offset.checked_add(often_len)? != text.offset {
                return None;
            }
            let lens = (often_len + text.file_len, often_len + text.len);
            text = Segment { offset: often.offset, file_len: lens.0, addr: often.addr, len: lens.1 };
        }
        Some(Self { file, entry: number::<8>(file, 24)?, text, often_len, rodata, data })
    }

    /// The text segment's bytes.
    #[must_use]
    pub fn text_bytes(&self) -> &'a [u8] {
        &self.file[self.text.offset as usize..][..self.text.file_len as usize]
    }

    /// The part of the text that nearly every command runs through, in whole pages.
    #[must_use]
    pub fn often_bytes(&self) -> &'a [u8] {
        &self.text_bytes()[..self.often_len as usize]
    }

    /// The data segment's initial bytes.
    #[must_use]
    pub fn data_bytes(&self) -> &'a [u8] {
        &self.file[self.data.offset as usize..][..self.data.file_len as usize]
    }
}
