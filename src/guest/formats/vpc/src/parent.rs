//! The parent of a differencing disk, as the child names it.

use alloc::vec;

use instar_image::reader::Reader;
use instar_image::windows::{local_name, utf16_be, utf16_le};
use instar_image::{Backing, Error, FileOffset, OpenContext, Result, limits};

use crate::header::Dynamic;
use crate::layout::{LOCATOR, LOCATORS, PARENT_NAME_LEN, dynamic};

/// Codes of locators that hold a name in little-endian UTF-16, the better first: relative, absolute.
const CODES: [&[u8; 4]; 2] = [b"W2ru", b"W2ku"];

/// The parent's name: a locator's, else the name in the header, which is meant for people but often all there is. The
/// host's policy decides whether it is opened.
pub fn backing(cx: &OpenContext<'_, '_>, header: &Dynamic) -> Result<Backing> {
    let r = Reader::new(&header.bytes);
    for code in CODES {
        for number in 0..LOCATORS {
            let locator = Reader::new(r.bytes(dynamic::LOCATORS + number * LOCATOR, LOCATOR)?);
            if locator.array::<4>(0)? != *code {
                continue;
            }
            // A name of UTF-16 takes at most twice the bytes that ours may have.
            let len = locator.be32(8)? as usize;
            if len > limits::BACKING_NAME_MAX * 2 {
                return Err(Error::malformed("Backing file name too long"));
            }
            let mut bytes = vec![0; len];
            cx.source.read(cx.device, FileOffset::new(locator.be64(16)?), &mut bytes)?;
            let name = local_name(&utf16_le(&bytes));
            if !name.is_empty() {
                return Ok(named(name));
            }
        }
    }
    let name = local_name(&utf16_be(r.bytes(dynamic::PARENT_NAME, PARENT_NAME_LEN)?));
    if name.is_empty() {
        return Err(Error::malformed("the differencing disk does not name its parent"));
    }
    Ok(named(name))
}

/// A parent is a VHD: a fixed one would else be taken for raw.
fn named(name: alloc::vec::Vec<u8>) -> Backing {
    Backing { name, format: Some("vpc".into()) }
}
