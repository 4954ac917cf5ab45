//! The LUKS format: a header with key slots, and behind it the encrypted disk.
//!
//! Version 1 is what the stock tool reads; its header (shared with encrypted images of other formats) is in
//! [`instar_crypto::luks`]. Version 2 is no format to `qemu-img`, which takes it for raw; so does instar unless it is
//! told the format (the raw crate's `content` module can tell what it is): then [`v2`] reads it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod image;
mod v2;

use alloc::boxed::Box;

use instar_crypto::luks::{Header, MAGIC, password};
use instar_image::options::check_driver_options;
use instar_image::reader::Reader;
use instar_image::{Error, Format, Image, OpenContext, Probe, Result, SafetyCheck};

use crate::image::{LuksImage, Sectors};

const VERSION_1: u16 = 1;
const KEY_SECRET: &str = "key-secret";
const DRIVER_OPTIONS: &[&str] = &[KEY_SECRET];
const SECTOR: u32 = 512;

/// The format.
pub struct Luks;

impl Format for Luks {
    fn name(&self) -> &'static str {
        "luks"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        let version = Reader::new(probe.head).be16(MAGIC.len());
        if probe.head.starts_with(&MAGIC) && version == Ok(VERSION_1) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        check_driver_options("luks", cx.options, DRIVER_OPTIONS)?;
        let secret = cx.options.iter().rev().find(|(key, _)| key == KEY_SECRET).map(|(_, id)| id.as_str());
        if !cx.source.is_stock() && v2::is_there(cx.source, cx.device)? {
            return v2::open(&cx, secret);
        }
        let password = cx.opener.map(|_| password(cx.source, secret, KEY_SECRET)).transpose()?;
        let header = Header::read(cx.source, cx.device, 0, cx.version)?;
        let crypter = password.map(|p| header.unlock(cx.source, cx.device, 0, p)).transpose()?;
        let data = header.payload();
        let len = cx.source.stat(cx.device)?.len.next_multiple_of(512);
        let size = len
            .checked_sub(data)
            .ok_or_else(|| Error::malformed("Could not refresh total sector count: Input/output error"))?;
        let (sectors, specific) = (Sectors { unit: SECTOR, first: 0 }, header.describe(cx.version));
        Ok(Box::new(LuksImage { device: cx.device, data, size, sectors, crypter, specific }))
    }

    fn safety(&self) -> &'static [SafetyCheck] {
        &[
            SafetyCheck::NoneNeeded("it names no other file"),
            SafetyCheck::Checked("header, key material and data lie side by side"),
            SafetyCheck::Checked("key derivation is bounded in time and memory"),
            SafetyCheck::Checked(
                "of version 2: a header counts only with its checksum; its JSON area is at most 4 MiB",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(head: &[u8]) -> u32 {
        Luks.probe(&Probe { head, len: 1 << 20, name: b"disk" })
    }

    #[test]
    fn only_version_1_is_found_out() {
        assert_eq!(score(b"LUKS\xba\xbe\0\x01"), 100);
        assert_eq!(score(b"LUKS\xba\xbe\0\x02"), 0);
    }
}
