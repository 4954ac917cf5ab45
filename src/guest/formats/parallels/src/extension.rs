//! The format extension: a cluster of features, of which dirty bitmaps are the only known one. Nothing of it is shown;
//! it is checked as the stock tool does when it opens an image.

use alloc::format;
use alloc::vec;

use instar_image::reader::Reader;
use instar_image::{Error, FileOffset, OpenContext, Result};
use md5::{Digest, Md5};

use crate::header::Header;
use crate::layout::{SECTOR, extension};

/// Largest cluster that is read as an extension, in bytes (instar): it is held as a whole for its checksum.
const EXTENSION_MAX: u64 = 16 << 20;

/// Reads and checks the extension, if there is one.
pub fn check(cx: &OpenContext<'_, '_>, header: &Header) -> Result<()> {
    if header.extension == FileOffset::ZERO {
        return Ok(());
    }
    if header.cluster > EXTENSION_MAX {
        return Err(Error::limit("Failed to read Format Extension cluster: Cannot allocate memory"));
    }
    let mut bytes = vec![0; header.cluster as usize];
    cx.source.read(cx.device, header.extension, &mut bytes)?;
    let read = Reader::new(&bytes);
    let magic = read.le64(0)?;
    if magic != extension::MAGIC {
        return Err(Error::malformed(format!(
            "Wrong parallels Format Extension magic: 0x{magic:x}, expected: 0x{:x}",
            extension::MAGIC
        )));
    }
    let body = bytes.get(extension::HEADER_LEN..).unwrap_or_default();
    if read.bytes(8, 16)? != Md5::digest(body).as_slice() {
        return Err(Error::malformed("Wrong checksum in Format Extension header. Format extension is corrupted."));
    }
    features(cx, header, body)
}

fn features(cx: &OpenContext<'_, '_>, header: &Header, body: &[u8]) -> Result<()> {
    let mut rest = body;
    loop {
        let len = extension::FEATURE_LEN;
        let Some((head, behind)) = rest.split_at_checked(len) else {
            return Err(Error::malformed(format!(
                "Can not read feature header, as remaining bytes ({}) in Format Extension is less than Feature header \
                 size ({len})",
                rest.len()
            )));
        };
        let read = Reader::new(head);
        if read.le64(8)? != 0 {
            return Err(Error::unsupported("Flags for extension feature are unsupported"));
        }
        let size = read.le32(16)? as usize;
        let Some(data) = behind.get(..size) else {
            return Err(Error::malformed("Feature data_size exceedes Format Extension cluster"));
        };
        match read.le64(0)? {
            extension::END => return Ok(()),
            extension::BITMAP => bitmap(cx, header, data)?,
            other => return Err(Error::unsupported(format!("Unknown feature: 0x{other:x}"))),
        }
        rest = behind.get(size.next_multiple_of(8)..).unwrap_or_default();
    }
}

/// One dirty bitmap: its size in sectors, its name, its granularity in sectors, and its table.
fn bitmap(cx: &OpenContext<'_, '_>, header: &Header, data: &[u8]) -> Result<()> {
    let least = extension::BITMAP_LEN;
    if data.len() < least {
        return Err(Error::malformed(format!(
            "Too small Bitmap Feature area in Parallels Format Extension: {} bytes, expected at least {least} bytes",
            data.len()
        )));
    }
    let read = Reader::new(data);
    let (size, sectors) = (read.le64(0)?, header.size / SECTOR);
    if size != sectors {
        return Err(Error::malformed(format!(
            "Bitmap size (in sectors) {size} differs from disk size in sectors {sectors}"
        )));
    }
    let entries = u64::from(read.le32(28)?);
    if entries.saturating_mul(8) > (data.len() - least) as u64 {
        return Err(Error::malformed("Bitmaps feature corrupted: l1 table exceeds extension data_size"));
    }
    let granularity = u64::from(read.le32(24)?).saturating_mul(SECTOR);
    if !granularity.is_power_of_two() || granularity > 1 << 31 {
        return Err(Error::malformed("Granularity must be a power of two"));
    }
    let bits = header.cluster.saturating_mul(8);
    let expected = header.size.div_ceil(granularity).div_ceil(bits);
    if entries != expected {
        return Err(Error::malformed(format!(
            "Bitmap table size {entries} does not correspond to bitmap size and cluster size. Expected {expected}"
        )));
    }
    for index in 0..entries as usize {
        let place = read.le64(least + index * 8)?;
        if place > 1 && place.saturating_mul(SECTOR) >= cx.source.stat(cx.device)?.len {
            return Err(Error::malformed("Failed to read bitmap data cluster: Invalid argument"));
        }
    }
    Ok(())
}
