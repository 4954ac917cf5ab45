//! The header extensions.

use alloc::format;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::{Error, FileOffset, Result};

use crate::bitmaps::Directory;
use crate::header::{Encryption, Header};
use crate::layout::{BACKING_FORMAT_MAX, extension};
use crate::window::Window;

/// Bytes of an extension's own header: type and length.
const HEADER: usize = 8;

/// What the extensions say.
#[derive(Clone, Debug, Default)]
pub struct Extensions {
    /// The backing file's format; empty: to be probed.
    pub backing_format: Option<Vec<u8>>,
    /// Name of the data file.
    pub data_file: Option<Vec<u8>>,
    /// Where the LUKS header is, and how long it is in bytes.
    pub crypto_header: Option<(FileOffset, u64)>,
    /// The bitmap directory.
    pub bitmaps: Option<Directory>,
    /// A warning to the user.
    pub warning: Option<&'static str>,
}

/// One extension: type, where its content is, and how long it is in bytes.
struct Entry {
    kind: u32,
    at: FileOffset,
    len: u32,
}

/// The list of extensions, checked as it is walked.
struct Walk {
    at: FileOffset,
    end: FileOffset,
}

impl Walk {
    fn new(header: &Header) -> Self {
        Self { at: FileOffset::from(header.length), end: header.extensions_end }
    }

    fn next(&mut self, window: &mut Window<'_>) -> Result<Option<Entry>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let r = Reader::new(window.bytes(self.at, HEADER)?);
        let (kind, len) = (r.be32(0)?, r.be32(4)?);
        let at = self.at.saturating_add(HEADER as u64);
        if self.end.checked_since(at).is_none_or(|left| u64::from(len) > left) {
            return Err(Error::malformed("Header extension too large"));
        }
        if kind == extension::END {
            return Ok(None);
        }
        self.at = at.saturating_add(u64::from(len).next_multiple_of(8));
        Ok(Some(Entry { kind, at, len }))
    }
}

impl Extensions {
    /// Reads and checks them. Unknown ones are skipped.
    pub fn read(window: &mut Window<'_>, header: &Header) -> Result<Self> {
        let mut found = Self::default();
        let mut walk = Walk::new(header);
        while let Some(entry) = walk.next(window)? {
            match entry.kind {
                extension::BACKING_FORMAT => {
                    if entry.len >= BACKING_FORMAT_MAX {
                        let len = entry.len;
                        return Err(Error::malformed(format!(
                            "ERROR: ext_backing_format: len={len} too large (>={BACKING_FORMAT_MAX})"
                        )));
                    }
                    found.backing_format = Some(text(content(window, &entry)?));
                }
                extension::DATA_FILE => found.data_file = Some(text(content(window, &entry)?)),
                extension::CRYPTO_HEADER => found.crypto_header = Some(crypto_header(window, header, &entry)?),
                extension::BITMAPS => {
                    match Directory::parse(content(window, &entry)?, header)? {
                        Ok(directory) => found.bitmaps = Some(directory),
                        Err(warning) => found.warning = Some(warning),
                    };
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The extension's content; it lies in the first cluster, so its length is bounded.
fn content<'w>(window: &'w mut Window<'_>, entry: &Entry) -> Result<&'w [u8]> {
    window.bytes(entry.at, entry.len as usize)
}

/// Up to the first NUL: names are C strings to QEMU.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|b| *b != 0).collect()
}

fn crypto_header(window: &mut Window<'_>, header: &Header, entry: &Entry) -> Result<(FileOffset, u64)> {
    const LEN: u32 = 16;
    if header.encryption != Encryption::Luks {
        return Err(Error::malformed("CRYPTO header extension only expected with LUKS encryption method"));
    }
    if entry.len != LEN {
        let len = entry.len;
        return Err(Error::malformed(format!("CRYPTO header extension size {len}, but expected size {LEN}")));
    }
    let r = Reader::new(content(window, entry)?);
    let (offset, len) = (FileOffset::new(r.be64(0)?), r.be64(8)?);
    let cluster_size = header.cluster_size();
    if !offset.is_multiple_of(cluster_size) {
        return Err(Error::malformed(format!(
            "Encryption header offset '{offset}' is not a multiple of cluster size '{cluster_size}'"
        )));
    }
    Ok((offset, len))
}

/// The names that an image gives to feature bits.
#[derive(Clone, Debug, Default)]
pub struct FeatureNames {
    /// Kind (0: incompatible), bit, name.
    entries: Vec<(u8, u8, Vec<u8>)>,
}

impl FeatureNames {
    /// Reads the table, if there is one.
    pub fn read(window: &mut Window<'_>, header: &Header) -> Result<Self> {
        const ENTRY: usize = 48;
        let mut walk = Walk::new(header);
        while let Some(entry) = walk.next(window)? {
            if entry.kind == extension::FEATURE_NAMES {
                let entries = content(window, &entry)?.as_chunks::<ENTRY>().0;
                let entries = entries.iter().map(|[kind, bit, name @ ..]| (*kind, *bit, text(name)));
                return Ok(Self { entries: entries.take_while(|(_, _, name)| !name.is_empty()).collect() });
            }
        }
        Ok(Self::default())
    }

    /// Masks and names of the incompatible features.
    pub fn incompatible(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let named = self.entries.iter().filter(|(kind, bit, _)| *kind == 0 && *bit < 64);
        named.map(|(_, bit, name)| (1u64.unbounded_shl(u32::from(*bit)), name.as_slice()))
    }
}
