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
mod write;

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use instar_crypto::Crypter;
use instar_crypto::luks::slots::{self, Opener};
use instar_crypto::luks::{Header, MAGIC, password};
use instar_image::options::{OptionSpec, check_driver_options};
use instar_image::reader::Reader;
use instar_image::{
    Creator, DeviceId, Error, FileOffset, Format, Image, OpenContext, Probe, Quirk, Result, SafetyCheck, Version,
};

use crate::image::{LuksImage, Sectors};

const VERSION_1: u16 = 1;
const KEY_SECRET: &str = "key-secret";
/// The option that says on which device the header is, where it is not on the image's, and the one with its name.
const HEADER: &str = "header";
const HEADER_NAME: &str = "header.filename";
const SECTOR: u64 = 512;

/// The format.
pub struct Luks;

/// The name of the secret.
fn secret<'o>(cx: &OpenContext<'_, 'o>) -> Result<Option<&'o str>> {
    let known: &[&str] = if cx.version >= Version::V10_0 { &[KEY_SECRET, HEADER, HEADER_NAME] } else { &[KEY_SECRET] };
    check_driver_options("luks", cx.options, known)?;
    Ok(said(cx, KEY_SECRET))
}

/// What the last driver option of that name says.
fn said<'o>(cx: &OpenContext<'_, 'o>, name: &str) -> Option<&'o str> {
    cx.options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The device that the header is on, if it is a file by itself, and its name: the user has named it, and the host has opened
/// it.
fn detached(cx: &OpenContext<'_, '_>) -> Result<Option<(DeviceId, Vec<u8>)>> {
    let Some(device) = said(cx, HEADER) else { return Ok(None) };
    let number = device.parse();
    let number = number.map_err(|_| Error::usage(format!("Cannot find device='{device}' nor node-name='{device}'")))?;
    Ok(Some((DeviceId(number), said(cx, HEADER_NAME).unwrap_or_default().into())))
}

impl Luks {
    /// The header, the disk's size in bytes and, where data is wanted, what encrypts it.
    fn read(cx: &OpenContext<'_, '_>) -> Result<(Header, u64, Option<Crypter>)> {
        let secret = secret(cx)?;
        let password = cx.purpose.wants_data().then(|| password(cx.source, secret, KEY_SECRET)).transpose()?;
        let (device, header) = match detached(cx)? {
            Some((device, _)) => (device, Header::read_detached(cx.source, device, cx.version)?),
            None => (cx.device, Header::read(cx.source, cx.device, FileOffset::ZERO, cx.version)?),
        };
        let crypter = password.map(|p| header.unlock(cx.source, device, FileOffset::ZERO, p)).transpose()?;
        let len = cx.source.stat(cx.device)?.len.next_multiple_of(SECTOR);
        let size = len
            .checked_sub(header.payload())
            .ok_or_else(|| Error::malformed("Could not refresh total sector count: Input/output error"))?;
        Ok((header, size, crypter))
    }
}

impl Format for Luks {
    fn name(&self) -> &'static str {
        "luks"
    }

    fn probe(&self, probe: &Probe<'_>) -> u32 {
        let version = Reader::new(probe.head).be16(MAGIC.len());
        if probe.head.starts_with(&MAGIC) && version == Ok(VERSION_1) { 100 } else { 0 }
    }

    fn open<'a>(&self, cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        let detached = detached(&cx)?;
        if detached.is_none() && !cx.source.is_stock() && v2::is_there(cx.source, cx.device)? {
            return v2::open(&cx, secret(&cx)?);
        }
        let (header, size, crypter) = Self::read(&cx)?;
        let (data, specific) = (FileOffset::new(header.payload()), header.describe(cx.version));
        let sectors = Sectors { unit: SECTOR as u32, first: 0 };
        let (device, writing, crypter) = (cx.device, Some(cx.purpose), crypter.map(Arc::new));
        let slots = Some((header, Opener::of(secret(&cx)?)));
        let image =
            LuksImage { device, detached, writing, data, size, sectors, crypter, slots, specific, editor: None };
        Ok(Box::new(image))
    }

    fn create_options(&self) -> &'static [OptionSpec] {
        write::OPTIONS
    }

    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        write::SHOWN
    }

    fn creator(&self) -> Option<&dyn Creator> {
        Some(&write::LuksCreator)
    }

    fn quirks(&self) -> &'static [Quirk] {
        &[
            // The header does not change while the disk is in use.
            Quirk::SharedWithWriters,
            Quirk::Amends(&slots::OPTIONS),
            // `detached-header` came with 10.0.
            Quirk::OptionSince("detached-header", Version::V10_0),
            // The driver passes the question on to its file.
            Quirk::ClusterSizeOfFile,
        ]
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
