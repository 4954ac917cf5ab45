//! The text that describes a disk ("Virtual Disk Format 5.0", "The Descriptor File"): by itself, or in a sparse extent.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::{Error, Result};

/// Longest text that is looked at, in bytes (QEMU).
pub const TEXT_MAX: usize = (1 << 20) - 1;
/// Most extents (instar: each is a file that is open).
const EXTENTS_MAX: usize = 64;
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
}

impl ExtentKind {
    /// As the text names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flat(_, name) => name,
            Self::Sparse => "SPARSE",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::SeSparse => "SESPARSE",
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
    /// The file's name.
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

    /// The extents, in their order.
    pub fn extents(&self) -> Result<Vec<ExtentLine>> {
        let mut extents = Vec::new();
        for line in self.text.split(|b| *b == b'\n') {
            let Some(extent) = extent(line)? else { continue };
            if extents.len() >= EXTENTS_MAX {
                return Err(Error::limit(format!("the image has more than {EXTENTS_MAX} extents")));
            }
            extents.push(extent);
        }
        Ok(extents)
    }
}

/// `RW 4192256 SPARSE "name" 0`; other lines are none.
fn extent(line: &[u8]) -> Result<Option<ExtentLine>> {
    let invalid = || {
        let shown = line.strip_suffix(b"\r").unwrap_or(line);
        Error::malformed(format!("Invalid extent line: {}", String::from_utf8_lossy(shown)))
    };
    let mut words = line.splitn(2, |b| *b == b'"');
    let (Some(head), Some(rest)) = (words.next(), words.next()) else { return Ok(None) };
    let head = String::from_utf8_lossy(head).into_owned();
    let head: Vec<&str> = head.split_whitespace().collect();
    let [access, sectors, kind] = head[..] else { return Ok(None) };
    let Ok(sectors) = sectors.parse::<i64>() else { return Ok(None) };
    if access != "RW" {
        return Ok(None);
    }
    let end = rest.iter().position(|b| matches!(b, b'"' | b'\r')).unwrap_or(rest.len());
    let name = rest.get(..end).unwrap_or_default();
    if name.is_empty() || name.len() > NAME_MAX {
        return Ok(None);
    }
    let behind = String::from_utf8_lossy(rest.get(end + 1..).unwrap_or_default()).trim().to_owned();
    let offset = behind.split_whitespace().next().map(str::parse::<i64>);
    let flat = |name| match offset {
        Some(Ok(offset)) => u64::try_from(offset).map(|offset| ExtentKind::Flat(offset, name)).map_err(|_| invalid()),
        _ => Err(invalid()),
    };
    let kind = match (kind, &offset) {
        ("FLAT", _) => flat("FLAT")?,
        ("VMFS", None) => ExtentKind::Flat(0, "VMFS"),
        ("VMFS", Some(_)) => return Err(invalid()),
        ("SPARSE" | "VMFSSPARSE" | "SESPARSE", Some(Ok(_))) => return Err(invalid()),
        ("SPARSE", _) => ExtentKind::Sparse,
        ("VMFSSPARSE", _) => ExtentKind::VmfsSparse,
        ("SESPARSE", _) => ExtentKind::SeSparse,
        _ => return Ok(None),
    };
    let Some(sectors) = u64::try_from(sectors).ok().filter(|n| *n > 0) else { return Ok(None) };
    Ok(Some(ExtentLine { sectors, kind, name: name.to_vec() }))
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
        assert_eq!(extents.len(), 2);
        assert_eq!(extents[1], ExtentLine { sectors: 7, kind: ExtentKind::Flat(3, "FLAT"), name: b"b.vmdk".to_vec() });
    }

    #[test]
    fn what_is_wrong() {
        for line in ["RW 1 FLAT \"x\"", "RW 1 FLAT \"x\" -1", "RW 1 VMFS \"x\" 0", "RW 1 SPARSE \"x\" 0"] {
            assert!(extent(line.as_bytes()).is_err(), "{line}");
        }
        for line in [
            "",
            "RW",
            "RW 1 SPARSE",
            "RW 0 SPARSE \"x\"",
            "RW -5 SPARSE \"x\"",
            "RDONLY 1 SPARSE \"x\"",
            "RW 1 ODD \"x\"",
        ] {
            assert_eq!(extent(line.as_bytes()).ok(), Some(None), "{line}");
        }
        let many = b"RW 1 SPARSE \"x\"\n".repeat(1000);
        assert!(Descriptor::new(&many).extents().is_err());
    }
}
