//! LUKS version 2 (LUKS2 On-Disk Format Specification 1.1), read only: a header twice over, each a binary part and a JSON
//! area; key slots whose keys come from PBKDF2 or Argon2; one encrypted segment, the disk.
//!
//! The stock tool does not have it.

mod binary;
mod bounded;
mod metadata;
mod unlock;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use instar_crypto::Scheme;
use instar_crypto::kdf::Kdf;
use instar_crypto::luks::password;
use instar_image::{Error, FileOffset, Image, OpenContext, Result, Value};

use self::binary::Binary;
pub use self::binary::is_there;
use self::metadata::{Keyslot, Metadata, Segment};
use crate::KEY_SECRET;
use crate::image::{LuksImage, Sectors};

/// The version in the header.
const VERSION: u16 = 2;
const SECTOR: u64 = 512;
/// Bytes that are encrypted together.
const UNITS: [u32; 4] = [512, 1024, 2048, 4096];

/// Opens an image of this version.
///
/// # Errors
/// What is wrong with it, or that no slot opens with the key.
pub fn open<'a>(cx: &OpenContext<'a, '_>, secret: Option<&str>) -> Result<Box<dyn Image + 'a>> {
    let password = cx.purpose.wants_data().then(|| password(cx.source, secret, KEY_SECRET)).transpose()?;
    let header = binary::newest(cx.source, cx.device)?;
    let metadata = Metadata::parse(&header.text)?;
    let end = cx.source.stat(cx.device)?.end();
    let areas_end = check_areas(&metadata, header.size, end)?;
    let (number, segment) = the_segment(&metadata)?;
    let size = size(segment, areas_end, end)?;
    let scheme = Scheme::by_name(&segment.encryption)?;
    let crypter = match password {
        Some(password) => Some(unlock::unlock(cx, &metadata, number, scheme, password)?),
        None => None,
    };
    let sectors = Sectors { unit: segment.sector_size, first: segment.iv_tweak };
    let specific = describe(&header, &metadata, segment);
    let (device, data, crypter) = (cx.device, segment.offset, crypter.map(Arc::new));
    let (detached, writing, slots, editor) = (None, None, None, None);
    Ok(Box::new(LuksImage { device, detached, writing, data, size, sectors, crypter, slots, specific, editor }))
}

/// The places of the key slots: behind both headers, inside the file, none in another's. Returns where their part of the
/// file ends.
fn check_areas(metadata: &Metadata, header: u64, file_end: FileOffset) -> Result<FileOffset> {
    let begin = FileOffset::new(2 * header);
    let end = begin.saturating_add(metadata.config.keyslots_size);
    let areas = metadata.keyslots.0.iter().filter_map(|(number, slot)| Some((*number, slot.area()?)));
    let areas: Vec<_> =
        areas.map(|(number, area)| (number, area.offset, area.offset.saturating_add(area.size))).collect();
    for (i, (number, from, to)) in areas.iter().enumerate() {
        if *from < begin || *to > end || *to > file_end {
            return Err(Error::malformed(format!("the area of key slot {number} lies outside its place")));
        }
        if let Some((other, ..)) = areas.iter().skip(i + 1).find(|(_, begin, end)| begin < to && from < end) {
            return Err(Error::malformed(format!("the areas of the key slots {number} and {other} overlap")));
        }
    }
    Ok(end)
}

/// The one segment that a disk has which is not just being encrypted anew, with its number.
fn the_segment(metadata: &Metadata) -> Result<(u32, &Segment)> {
    match &metadata.segments.0[..] {
        [(number, segment)] if segment.kind == "crypt" && segment.integrity.is_none() => Ok((*number, segment)),
        [(_, segment)] if segment.integrity.is_some() => {
            Err(Error::unsupported("LUKS volumes with integrity checksums are not supported"))
        }
        others => Err(Error::unsupported(format!(
            "a LUKS volume of {} segments (one that is being encrypted anew) is not supported",
            others.len()
        ))),
    }
}

/// Bytes of the disk.
fn size(segment: &Segment, areas_end: FileOffset, file_end: FileOffset) -> Result<u64> {
    let unit = u64::from(segment.sector_size);
    if !UNITS.contains(&segment.sector_size) {
        return Err(Error::malformed(format!("sectors of {unit} bytes")));
    }
    if segment.offset < areas_end || !segment.offset.is_multiple_of(unit) {
        return Err(Error::malformed("the segment lies over the header, or not on a sector"));
    }
    let left = file_end.checked_since(segment.offset);
    let left = left.ok_or_else(|| Error::malformed("the segment begins behind the file's end"))?;
    if segment.size == "dynamic" {
        return Ok(left - left % unit);
    }
    match segment.size.parse() {
        Ok(size) if size <= left && u64::is_multiple_of(size, unit) => Ok(size),
        Ok(_) => Err(Error::malformed("the segment ends behind the file's end, or not on a sector")),
        Err(_) => Err(Error::malformed("the segment's size is no number")),
    }
}

/// The map that `info` shows.
fn describe(header: &Binary, metadata: &Metadata, segment: &Segment) -> Value {
    let mut map = Value::map();
    map.set("version", u64::from(VERSION)).set("uuid", header.uuid.as_str());
    if !header.label.is_empty() {
        map.set("label", header.label.as_str());
    }
    map.set("encryption", segment.encryption.as_str())
        .set("sector-size", u64::from(segment.sector_size))
        .set("payload-offset", segment.offset.get())
        .set(
            "slots",
            metadata.keyslots.0.iter().map(|(number, slot)| describe_slot(*number, slot)).collect::<Vec<_>>(),
        );
    map
}

fn describe_slot(number: u32, slot: &Keyslot) -> Value {
    let mut map = Value::map();
    map.set("slot", u64::from(number)).set("type", slot.kind.as_str());
    if let Some(area) = slot.area() {
        map.set("key-offset", area.offset.get());
    }
    match slot.parts().map(|parts| parts.kdf) {
        Ok(Kdf::Pbkdf2 { hash, rounds }) => {
            map.set("kdf", "pbkdf2").set("hash-alg", hash.name()).set("iters", u64::from(rounds));
        }
        Ok(Kdf::Argon2 { id, time, memory, lanes }) => {
            map.set("kdf", if id { "argon2id" } else { "argon2i" })
                .set("iters", u64::from(time))
                .set("memory", u64::from(memory).saturating_mul(1024))
                .set("threads", u64::from(lanes));
        }
        Err(error) => {
            map.set("error", error.to_string());
        }
    }
    map
}
