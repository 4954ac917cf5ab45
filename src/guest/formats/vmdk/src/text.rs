//! The descriptor's text in the file: where it is, and how it is changed.
//!
//! A change is one write of the bytes that differ. What identifies the image and its parent stands at the beginning of
//! the text, in the sector that is written at once.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::{DeviceId, Error, FileOffset, Kind, Machine, Result, Source, Step};

use crate::descriptor::{Descriptor, TEXT_MAX};
use crate::layout::{HEADER, MAGIC_COWD, MAGIC_SPARSE, SECTOR, SparseHeader, sector_at};

/// Where QEMU looks for the text in a sparse extent, and how much of it, in bytes.
const EMBEDDED: (FileOffset, usize) = (FileOffset::new(0x200), 20 * 512);
/// `parentCID` of an image that has no parent.
const NO_PARENT: u32 = u32::MAX;

/// The descriptor of an image, and where it is stored.
pub struct Text {
    /// What the file begins with.
    pub head: [u8; HEADER],
    /// Where the text is.
    pub at: FileOffset,
    /// The file is an extent with the text in it (else the text names the extents).
    pub embedded: bool,
    /// The text, and what is behind it up to the end of its room.
    pub bytes: Vec<u8>,
}

impl Text {
    /// Of the image in `device`.
    pub fn read(source: &dyn Source, device: DeviceId) -> Result<Self> {
        let end = source.stat(device)?.end();
        if end < FileOffset::new(4) {
            return Err(Error::malformed("File is too small, not a valid image"));
        }
        let mut head = [0; HEADER];
        source.read(device, FileOffset::ZERO, &mut head)?;
        let (mut embedded, mut at, mut max) = (false, FileOffset::ZERO, TEXT_MAX);
        if head.starts_with(MAGIC_SPARSE) || head.starts_with(MAGIC_COWD) {
            (embedded, at, max) = (true, EMBEDDED.0, EMBEDDED.1);
        }
        if head.starts_with(MAGIC_SPARSE) {
            let header = SparseHeader::parse(&head)?;
            if header.capacity == 0 && header.descriptor != 0 {
                // A descriptor in a file that looks like an extent.
                (embedded, at, max) = (false, sector_at(header.descriptor), TEXT_MAX);
            }
        }
        let mut bytes = vec![0; end.saturating_since(at).min(max as u64) as usize];
        if !bytes.is_empty() {
            source.read(device, at, &mut bytes)?;
        }
        Ok(Self { head, at, embedded, bytes })
    }

    /// The text alone.
    fn words(&self) -> &[u8] {
        let end = self.bytes.iter().position(|b| *b == 0).unwrap_or(self.bytes.len());
        self.bytes.get(..end).unwrap_or_default()
    }

    /// Puts `words` in the text's place, and then that is stable.
    pub fn replace(&mut self, machine: &dyn Machine, device: DeviceId, words: &[u8]) -> Result<()> {
        let room = if self.embedded { self.room() } else { TEXT_MAX };
        if words.len() > room {
            let why = format!("the descriptor has room for {room} bytes");
            return Err(Error::new(Kind::Limit, "No space left on device").with_hint(why));
        }
        let mut bytes = words.to_vec();
        // What is left of a longer text is no text.
        bytes.resize(words.len().max(self.words().len()), 0);
        let same = |index: &usize| self.bytes.get(*index) == bytes.get(*index);
        let first = (0..bytes.len()).take_while(same).count();
        let last = (first..bytes.len()).rev().find(|index| !same(index)).map_or(first, |index| index + 1);
        let data = bytes.get(first..last).unwrap_or_default();
        if !data.is_empty() {
            let write = Step::Write { device, offset: self.at + first as u64, data };
            machine.submit(&[Step::Barrier { device }, write, Step::Barrier { device }])?;
        }
        bytes.resize(bytes.len().max(self.bytes.len()), 0);
        self.bytes = bytes;
        Ok(())
    }

    /// Bytes that the header leaves for an embedded text.
    fn room(&self) -> usize {
        let sectors = SparseHeader::parse(&self.head).map_or(0, |header| header.descriptor_len);
        EMBEDDED.1.min(usize::try_from(sectors.saturating_mul(SECTOR)).unwrap_or(EMBEDDED.1))
    }

    /// The text with another identity.
    pub fn with_cid(&self, cid: u32) -> Result<Vec<u8>> {
        with_line(self.words(), b"CID=", Some(&format!("CID={cid:08x}")))
    }

    /// The text with another parent: its name and its identity.
    pub fn with_parent(&self, parent: Option<(&[u8], u32)>) -> Result<Vec<u8>> {
        let (name, cid) = parent.map_or((None, NO_PARENT), |(name, cid)| (Some(name), cid));
        if name.is_some_and(|name| name.iter().any(|b| matches!(b, b'"' | b'\n' | b'\r' | 0))) {
            return Err(Error::usage("Invalid argument").with_hint("a vmdk cannot hold a name with such characters"));
        }
        let words = with_line(self.words(), b"parentCID=", Some(&format!("parentCID={cid:08x}")))?;
        let Some(name) = name else { return with_line(&words, HINT, None) };
        let line = [HINT, b"\"", name, b"\""].concat();
        let mut lines: Vec<&[u8]> = words.split(|b| *b == b'\n').collect();
        match lines.iter().position(|l| l.starts_with(HINT)) {
            Some(index) => lines.splice(index..=index, [&line[..]]),
            // As QEMU has it: behind the type.
            None => {
                let index = lines.iter().position(|l| l.starts_with(b"createType=")).map_or(lines.len(), |i| i + 1);
                lines.splice(index..index, [&line[..]])
            }
        };
        Ok(lines.join(&b'\n'))
    }

    /// The text of a disk of `sectors`, in one extent.
    pub fn with_capacity(&self, sectors: u64) -> Result<Vec<u8>> {
        let lines = self.words().split(|b| *b == b'\n');
        let number = |key: &[u8]| {
            let line = self.words().split(|b| *b == b'\n').find(|line| line.starts_with(key))?;
            let text = core::str::from_utf8(line.get(key.len()..)?).ok()?;
            text.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().ok()
        };
        let heads = number(b"ddb.geometry.heads").unwrap_or(16).max(1);
        let per_track = number(b"ddb.geometry.sectors").unwrap_or(63).max(1);
        let cylinders = sectors / heads.saturating_mul(per_track);
        let lines: Vec<Vec<u8>> = lines
            .map(|line| {
                if line.starts_with(b"ddb.geometry.cylinders") {
                    return format!("ddb.geometry.cylinders = \"{cylinders}\"").into_bytes();
                }
                let words: Vec<&[u8]> = line.splitn(3, |b| *b == b' ').collect();
                match words[..] {
                    [access @ b"RW", _, rest] => [access, format!(" {sectors} ").as_bytes(), rest].concat(),
                    _ => line.to_vec(),
                }
            })
            .collect();
        Ok(lines.join(&b'\n'))
    }
}

const HINT: &[u8] = b"parentFileNameHint=";

/// `words` with `line` in the place of the line that begins with `key`, or without that line.
fn with_line(words: &[u8], key: &[u8], line: Option<&str>) -> Result<Vec<u8>> {
    let mut lines: Vec<&[u8]> = words.split(|b| *b == b'\n').collect();
    let index = lines.iter().position(|l| l.starts_with(key));
    match (index, line) {
        (Some(index), line) => {
            lines.splice(index..=index, line.map(str::as_bytes));
        }
        (None, None) => {}
        (None, Some(_)) => return Err(Error::malformed("invalid VMDK image descriptor")),
    }
    Ok(lines.join(&b'\n'))
}

/// The identity of the image in `device`.
pub fn cid_of(source: &dyn Source, device: DeviceId) -> Result<u32> {
    let text = Text::read(source, device)?;
    let known = text.embedded || Descriptor::new(&text.bytes).create_type().is_ok();
    let cid = Descriptor::new(&text.bytes).cid().filter(|_| known);
    cid.ok_or_else(|| Error::usage("backing_file must be a vmdk image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &[u8] = b"version=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n\
        RW 8192 SPARSE \"x.vmdk\"\n\nddb.geometry.cylinders = \"8\"\nddb.geometry.heads = \"16\"\n\
        ddb.geometry.sectors = \"63\"\n";

    fn text(words: &[u8]) -> Text {
        Text { head: [0; HEADER], at: FileOffset::new(512), embedded: true, bytes: [words, &[0; 100]].concat() }
    }

    #[test]
    fn a_parent_comes_changes_and_goes() {
        let with = text(WORDS).with_parent(Some((b"base.vmdk", 0xabc))).expect("it has room");
        let shown = core::str::from_utf8(&with).expect("it is text");
        assert!(shown.contains("CID=00000001\nparentCID=00000abc\n"), "{shown}");
        assert!(shown.contains("Sparse\"\nparentFileNameHint=\"base.vmdk\"\n\nRW"), "{shown}");
        let other = text(&with).with_parent(Some((b"o", 1))).expect("it has room");
        assert!(other.windows(24).any(|w| w == b"parentFileNameHint=\"o\"\n\n"));
        assert_eq!(text(&other).with_parent(None).expect("it goes"), WORDS);
    }

    #[test]
    fn names_that_no_line_can_hold() {
        for name in [&b"a\"b"[..], b"a\nb", b"a\0b"] {
            assert!(text(WORDS).with_parent(Some((name, 1))).is_err());
        }
    }

    #[test]
    fn identity_and_size() {
        let words = text(WORDS).with_cid(0xfeed_f00d).expect("it has one");
        assert_eq!(Descriptor::new(&words).cid(), Some(0xfeed_f00d));
        assert_eq!(Descriptor::new(&words).parent_cid(), Some(NO_PARENT));
        let words = text(WORDS).with_capacity(16 * 63 * 50).expect("it has lines");
        assert!(words.windows(28).any(|w| w == b"ddb.geometry.cylinders = \"50"));
        assert_eq!(Descriptor::new(&words).extents().expect("they are valid")[0].sectors, 16 * 63 * 50);
        assert!(text(b"nothing").with_cid(1).is_err());
    }
}
