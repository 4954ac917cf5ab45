//! The text that describes a disk ("Virtual Disk Format 5.0", "The Descriptor File"): by itself, or in a sparse extent.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::{Error, Result};

/// Longest text that is looked at, in bytes (QEMU).
pub const TEXT_MAX: usize = (1 << 20) - 1;
/// Most extents (instar: each is a file that is open).
const EXTENTS_MAX: usize = 10_000;
/// Longest name of an extent in bytes (QEMU).
const NAME_MAX: usize = 511;
/// What a disk that is described by itself can be.
const TYPES: [&str; 6] =
    ["monolithicFlat", "vmfs", "vmfsSparse", "seSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];

/// How an extent holds its part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Plain bytes from that sector of its file on. With the name of the kind.
    Flat(u64, &'static str),
    /// A hosted sparse extent.
    Sparse,
    /// An ESX copy-on-write extent.
    VmfsSparse,
    /// A seSparse extent.
    SeSparse,
    /// Nothing but zeroes, in no file.
    Zero,
}

impl ExtentKind {
    /// As the text names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flat(_, name) => name,
            Self::Sparse => "SPARSE",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::SeSparse => "SESPARSE",
            Self::Zero => "ZERO",
        }
    }
}

/// A line of the extent description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentLine {
    /// Length in sectors.
    pub sectors: u64,
    /// See [`ExtentKind`].
    pub kind: ExtentKind,
    /// It is not to be written.
    pub read_only: bool,
    /// The file's name; empty where there is none.
    pub name: Vec<u8>,
}

/// What the text says.
#[derive(Clone, Debug)]
pub struct Descriptor<'t> {
    text: &'t [u8],
}

impl<'t> Descriptor<'t> {
    /// The text up to its end, or to a NUL.
    pub fn new(text: &'t [u8]) -> Self {
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        Self { text: text.get(..end).unwrap_or_default() }
    }

    /// What follows the first `key`.
    fn after(&self, key: &str) -> Option<&'t [u8]> {
        let at = self.text.windows(key.len()).position(|w| w == key.as_bytes())?;
        self.text.get(at + key.len()..)
    }

    /// What stands in quotes behind `key="`.
    fn quoted(&self, key: &str) -> Option<&'t [u8]> {
        let rest = self.after(&format!("{key}=\""))?;
        rest.get(..rest.iter().position(|b| *b == b'"')?)
    }

    /// The hexadecimal number behind `key`.
    fn number(&self, key: &str) -> Option<u32> {
        let digits = self.after(key)?.iter().map_while(|b| char::from(*b).to_digit(16));
        Some(digits.fold(0, |number, digit| number << 4 | digit))
    }

    /// Identifies the content.
    pub fn cid(&self) -> Option<u32> {
        self.number("CID=")
    }

    /// The parent's [`Descriptor::cid`] when the image was made; all ones: it has none.
    pub fn parent_cid(&self) -> Option<u32> {
        self.number("parentCID=")
    }

    /// The parent's name.
    pub fn parent(&self) -> Option<Vec<u8>> {
        self.quoted("parentFileNameHint").map(<[u8]>::to_vec)
    }

    /// What a disk that is described by itself is.
    pub fn create_type(&self) -> Result<&'static str> {
        let given = self.quoted("createType").ok_or_else(|| Error::malformed("invalid VMDK image descriptor"))?;
        let known = TYPES.iter().find(|name| name.as_bytes() == given);
        known
            .copied()
            .ok_or_else(|| Error::unsupported(format!("Unsupported image type '{}'", String::from_utf8_lossy(given))))
    }

    /// The extents, in their order: at least one.
    pub fn extents(&self) -> Result<Vec<ExtentLine>> {
        let mut extents = Vec::new();
        for line in self.text.split(|b| *b == b'\n') {
            let line = line.trim_ascii();
            let Some((access, rest)) = access(line) else { continue };
            if extents.len() >= EXTENTS_MAX {
                return Err(Error::limit(format!("the image has more than {EXTENTS_MAX} extents")));
            }
            extents.push(extent(access, rest).map_err(|why| {
                let text = format!("Invalid extent line: {}", String::from_utf8_lossy(line));
                if why.is_empty() { Error::malformed(text) } else { Error::unsupported(text).with_hint(why) }
            })?);
        }
        if extents.is_empty() {
            return Err(Error::malformed("invalid VMDK image descriptor").with_hint("it names no extent"));
        }
        Ok(extents)
    }
}

/// What may be done with an extent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Write,
    Read,
    None,
}

/// The first word and the rest of a line that is of an extent. Capitals or not: some write it small.
fn access(line: &[u8]) -> Option<(Access, &[u8])> {
    const ACCESS: [(&[u8], Access); 3] =
        [(b"RW", Access::Write), (b"RDONLY", Access::Read), (b"NOACCESS", Access::None)];
    let (word, rest) = next_word(line);
    let (_, access) = ACCESS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word))?;
    Some((*access, rest))
}

/// Up to blanks or a quotation mark, and what follows.
fn next_word(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|b| b.is_ascii_whitespace() || *b == b'"').unwrap_or(line.len());
    line.split_at(end)
}

/// The file's name, in quotation marks or not, and what follows.
fn next_name(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(quoted) = line.trim_ascii_start().strip_prefix(b"\"") else { return next_word(line) };
    let end = quoted.iter().position(|b| *b == b'"').unwrap_or(quoted.len());
    (quoted.get(..end).unwrap_or_default(), quoted.get(end + 1..).unwrap_or_default())
}

/// `RW 4192256 SPARSE "name" 0`, from its second word on. What cannot be read is refused: an extent that is left out moves
/// all that follows it. An error says why, where the line alone does not.
fn extent(access: Access, line: &[u8]) -> core::result::Result<ExtentLine, &'static str> {
    let (sectors, rest) = next_word(line);
    let (kind, rest) = next_word(rest);
    let sectors = core::str::from_utf8(sectors).ok().and_then(|text| text.parse::<i64>().ok());
    let sectors = sectors.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).ok_or("")?;
    let read_only = access != Access::Write;
    if kind.eq_ignore_ascii_case(b"ZERO") {
        return Ok(ExtentLine { sectors, kind: ExtentKind::Zero, read_only, name: Vec::new() });
    }
    let (name, behind) = next_name(rest);
    let offset = next_word(behind).0;
    let offset = (!offset.is_empty()).then(|| core::str::from_utf8(offset).ok().and_then(|text| text.parse().ok()));
    let kind = match (kind.to_ascii_uppercase().as_slice(), offset) {
        (b"FLAT", Some(Some(offset))) => ExtentKind::Flat(offset, "FLAT"),
        (b"VMFS", None) => ExtentKind::Flat(0, "VMFS"),
        // What stands there and is no number is nothing to QEMU.
        (b"SPARSE", None | Some(None)) => ExtentKind::Sparse,
        (b"VMFSSPARSE", None | Some(None)) => ExtentKind::VmfsSparse,
        (b"SESPARSE", None | Some(None)) => ExtentKind::SeSparse,
        (b"FLAT" | b"VMFS" | b"SPARSE" | b"VMFSSPARSE" | b"SESPARSE", _) => return Err(""),
        _ => return Err("extents of this kind are not read"),
    };
    match access {
        Access::None => Err("nobody may read what is in this extent"),
        _ if name.is_empty() || name.len() > NAME_MAX => Err("an extent has a file, whose name has 1 to 511 bytes"),
        _ => Ok(ExtentLine { sectors, kind, read_only, name: name.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"# Disk DescriptorFile\nversion=1\nCID=733ebce2\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
        parentFileNameHint=\"base.vmdk\"\nRW 100 VMFS \"a-flat.vmdk\"\nRW 7 FLAT \"b.vmdk\" 3\r\nNOACCESS 8 ZERO\n";

    #[test]
    fn what_a_text_says() {
        let text = Descriptor::new(TEXT);
        assert_eq!((text.cid(), text.parent_cid()), (Some(0x733e_bce2), Some(0xffff_ffff)));
        assert_eq!(text.create_type().expect("it is known"), "vmfs");
        assert_eq!(text.parent().as_deref(), Some(&b"base.vmdk"[..]));
        let extents = text.extents().expect("they are valid");
        assert_eq!(extents.len(), 3);
        let flat = ExtentKind::Flat(3, "FLAT");
        assert_eq!(extents[1], ExtentLine { sectors: 7, kind: flat, read_only: false, name: b"b.vmdk".to_vec() });
        assert_eq!(extents[2], ExtentLine { sectors: 8, kind: ExtentKind::Zero, read_only: true, name: Vec::new() });
    }

    fn one(line: &str) -> Result<ExtentLine> {
        let mut extents = Descriptor::new(line.as_bytes()).extents()?;
        assert_eq!(extents.len(), 1);
        Ok(extents.remove(0))
    }

    #[test]
    fn the_same_line_in_other_words() {
        let flat = |line| {
            let ExtentLine { sectors, kind, read_only, name } = one(line).expect("it is valid");
            assert_eq!((sectors, kind, &name[..]), (7, ExtentKind::Flat(3, "FLAT"), &b"x.bin"[..]), "{line}");
            read_only
        };
        for line in ["RW 7 FLAT \"x.bin\" 3", "rw 7 flat x.bin 3\r\n", "  Rw\t7 Flat\"x.bin\"3"] {
            assert!(!flat(line));
        }
        assert!(flat("RDONLY 7 FLAT \"x.bin\" 3") && flat("rdonly 7 FLAT x.bin 3"));
        assert_eq!(one("RW 1 SPARSE \"a b\"").expect("it is valid").name, b"a b");
    }

    #[test]
    fn what_is_wrong() {
        for line in [
            "RW 1 FLAT \"x\"",
            "RW 1 FLAT \"x\" -1",
            "RW 1 VMFS \"x\" 0",
            "RW 1 SPARSE \"x\" 0",
            "RW",
            "RW 1 SPARSE",
            "RW 0 SPARSE \"x\"",
            "RW -5 SPARSE \"x\"",
            "RW 1 ODD \"x\"",
            "RW 1 VMFSRDM \"x\"",
            "NOACCESS 1 FLAT \"x\" 0",
            "rdonly x ZERO",
        ] {
            let error = one(line).expect_err("it is not left out");
            assert_eq!(error.message, format!("Invalid extent line: {line}"));
        }
        for none in ["", "# RW 1 FLAT \"x\" 0", "RWX 1 FLAT \"x\" 0", "ddb.x = \"RW\""] {
            assert!(Descriptor::new(none.as_bytes()).extents().is_err(), "{none}");
        }
        let many = |count| b"RW 1 SPARSE \"x\"\n".repeat(count);
        assert_eq!(Descriptor::new(&many(EXTENTS_MAX)).extents().expect("so many there may be").len(), EXTENTS_MAX);
        assert!(Descriptor::new(&many(EXTENTS_MAX + 1)).extents().is_err());
    }
}
