//! The binary header and its copy: which of them holds, and the text that goes with it (LUKS2 On-Disk Format
//! Specification 1.1, section 2).

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use instar_crypto::Hash;
use instar_crypto::luks::MAGIC;
use instar_image::reader::Reader;
use instar_image::{DeviceId, Error, FileOffset, Result, Source};

use super::VERSION;

/// Magic of the copy.
const MAGIC_COPY: [u8; 6] = *b"SKUL\xba\xbe";
/// Bytes of the header without the text behind it.
const BINARY: usize = 4096;
/// Bytes of a header with its text: a power of two between these.
const SIZE_MIN: u64 = 16 << 10;
/// See [`SIZE_MIN`].
const SIZE_MAX: u64 = 4 << 20;
/// Byte of the checksum, and how long it can be.
const CHECKSUM_AT: usize = 448;
/// See [`CHECKSUM_AT`].
const CHECKSUM: usize = 64;

/// A header whose checksum is right.
pub struct Binary {
    /// Bytes of it and its text.
    pub size: u64,
    /// The larger, the newer.
    sequence: u64,
    /// UUID.
    pub uuid: String,
    /// A name; may be empty.
    pub label: String,
    /// The text: a JSON object.
    pub text: Vec<u8>,
}

/// Whether there is a header of this version, or its copy, whatever state it is in.
///
/// # Errors
/// It cannot be read.
pub fn is_there(source: &dyn Source, device: DeviceId) -> Result<bool> {
    for (offset, magic) in places() {
        let mut head = [0; 8];
        source.read(device, offset, &mut head)?;
        if head.starts_with(&magic) && Reader::new(&head).be16(magic.len())? == VERSION {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a header can begin: the first, and its copy behind it, however long it is.
fn places() -> impl Iterator<Item = (FileOffset, [u8; 6])> {
    let sizes = (SIZE_MIN.ilog2()..=SIZE_MAX.ilog2()).map(|bits| (FileOffset::new(1 << bits), MAGIC_COPY));
    core::iter::once((FileOffset::ZERO, MAGIC)).chain(sizes)
}

/// The newer of the header and its copy; the one that holds, if the other one does not.
///
/// # Errors
/// Neither does.
pub fn newest(source: &dyn Source, device: DeviceId) -> Result<Binary> {
    let first = read(source, device, FileOffset::ZERO, MAGIC);
    let copy = match &first {
        Ok(first) => read(source, device, FileOffset::new(first.size), MAGIC_COPY),
        Err(_) => find_copy(source, device),
    };
    match (first, copy) {
        (Ok(first), Ok(copy)) => Ok(if copy.sequence > first.sequence { copy } else { first }),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(first), Err(copy)) => Err(Error::malformed(format!(
            "both headers of the LUKS volume are damaged: the first has {first}; the second has {copy}"
        ))),
    }
}

fn find_copy(source: &dyn Source, device: DeviceId) -> Result<Binary> {
    let mut last = Error::malformed("no magic");
    for (offset, magic) in places().skip(1) {
        match read(source, device, offset, magic) {
            Ok(copy) => return Ok(copy),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read(source: &dyn Source, device: DeviceId, offset: FileOffset, magic: [u8; 6]) -> Result<Binary> {
    let mut bytes = vec![0; BINARY];
    source.read(device, offset, &mut bytes)?;
    let r = Reader::new(&bytes);
    if r.array::<6>(0)? != magic {
        return Err(Error::malformed("no magic"));
    }
    let version = r.be16(6)?;
    if version != VERSION {
        return Err(Error::unsupported(format!("version {version}")));
    }
    let size = r.be64(8)?;
    if !size.is_power_of_two() || !(SIZE_MIN..=SIZE_MAX).contains(&size) {
        return Err(Error::malformed(format!("a length of {size} bytes")));
    }
    if FileOffset::new(r.be64(256)?) != offset {
        return Err(Error::malformed("another place in it than its own"));
    }
    let string = |at, len| r.bytes(at, len).map(until_nul);
    let (sequence, label, uuid) = (r.be64(16)?, string(24, 48)?, string(168, 40)?);
    let name = string(72, 32)?;
    let hash = Hash::by_name(&name).ok_or_else(|| Error::unsupported(format!("the checksum '{name}'")))?;
    let stored = r.array::<CHECKSUM>(CHECKSUM_AT)?;
    if let Some(field) = bytes.get_mut(CHECKSUM_AT..CHECKSUM_AT + CHECKSUM) {
        field.fill(0);
    }
    let mut text = vec![0; size as usize - BINARY];
    source.read(device, offset + BINARY as u64, &mut text)?;
    if !stored.starts_with(&hash.digest(&[&bytes, &text])) {
        return Err(Error::corrupt("a wrong checksum"));
    }
    text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
    Ok(Binary { size, sequence, uuid, label, text })
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
