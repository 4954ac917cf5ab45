//! The structures' bytes.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::windows::to_utf16_le;
use instar_image::{DeviceId, Error, FileOffset, Machine, Result};

use super::spec::Spec;
use crate::layout::{
    COOKIE, DYNAMIC_COOKIE, DYNAMIC_HEADER, FOOTER, LOCATOR, PARENT_NAME_LEN, SECTOR, checksum, dynamic, footer, put,
};

/// The only feature bit, which is always set.
const FEATURES: u32 = 2;
/// Version 1.0 of both structures.
const VERSION: u32 = 0x1_0000;
/// Of the creator: what QEMU says, the version of Virtual PC 2007.
const CREATOR_VERSION: u32 = 0x5_0003;
/// "Windows".
const HOST: &[u8; 4] = b"Wi2k";
/// No structure there.
const NOWHERE: u64 = u64::MAX;

/// The footer.
pub fn footer_of(spec: &Spec) -> [u8; FOOTER] {
    let mut bytes = [0; FOOTER];
    let kind: u32 = match (spec.fixed, &spec.parent) {
        (true, _) => 2,
        (false, None) => 3,
        (false, Some(_)) => 4,
    };
    let (cylinders, heads, sectors) = spec.geometry;
    put(&mut bytes, 0, COOKIE);
    put(&mut bytes, 8, &FEATURES.to_be_bytes());
    put(&mut bytes, 12, &VERSION.to_be_bytes());
    let header = if spec.fixed { NOWHERE } else { FOOTER as u64 };
    put(&mut bytes, footer::DATA_OFFSET, &header.to_be_bytes());
    put(&mut bytes, 24, &spec.time.to_be_bytes());
    put(&mut bytes, footer::CREATOR, &spec.creator);
    put(&mut bytes, 32, &CREATOR_VERSION.to_be_bytes());
    put(&mut bytes, 36, HOST);
    put(&mut bytes, footer::ORIGINAL_SIZE, &spec.size.to_be_bytes());
    put(&mut bytes, footer::CURRENT_SIZE, &spec.size.to_be_bytes());
    put(&mut bytes, footer::CYLINDERS, &cylinders.to_be_bytes());
    put(&mut bytes, footer::HEADS, &[heads, sectors]);
    put(&mut bytes, footer::TYPE, &kind.to_be_bytes());
    put(&mut bytes, footer::UNIQUE_ID, &spec.unique_id);
    let sum = checksum(&bytes, footer::CHECKSUM);
    put(&mut bytes, footer::CHECKSUM, &sum.to_be_bytes());
    bytes
}

/// What a child knows its parent by: identifier and time.
pub type Identity = ([u8; 16], [u8; 4]);

/// What a child knows the disk on `device` by.
pub fn identity(machine: &dyn Machine, device: DeviceId) -> Result<Identity> {
    let end = machine.stat(device)?.end();
    let mut bytes = [0; FOOTER];
    for offset in [FileOffset::ZERO, end.saturating_sub(SECTOR)] {
        machine.read(device, offset, &mut bytes)?;
        if bytes.starts_with(COOKIE) {
            let r = Reader::new(&bytes);
            return Ok((r.array(footer::UNIQUE_ID)?, r.array(24)?));
        }
    }
    Err(Error::usage("The parent of a differencing VHD must be a VHD"))
}

/// The parent of a child: its name, identifier and time, and where the locators' texts are.
pub struct Parent<'p> {
    pub name: &'p str,
    pub unique_id: [u8; 16],
    pub time: [u8; 4],
    /// Code, text and offset of each.
    pub locators: &'p [([u8; 4], Vec<u8>, FileOffset)],
}

/// The dynamic disk header of a disk with `entries` blocks of `block` bytes.
pub fn dynamic_header(table: FileOffset, entries: u32, block: u32, parent: Option<&Parent<'_>>) -> Vec<u8> {
    let mut bytes = vec![0; DYNAMIC_HEADER];
    put(&mut bytes, 0, DYNAMIC_COOKIE);
    put(&mut bytes, 8, &NOWHERE.to_be_bytes());
    put(&mut bytes, dynamic::TABLE_OFFSET, &table.get().to_be_bytes());
    put(&mut bytes, 24, &VERSION.to_be_bytes());
    put(&mut bytes, dynamic::MAX_ENTRIES, &entries.to_be_bytes());
    put(&mut bytes, dynamic::BLOCK_SIZE, &block.to_be_bytes());
    if let Some(parent) = parent {
        put(&mut bytes, dynamic::PARENT_ID, &parent.unique_id);
        put(&mut bytes, dynamic::PARENT_ID + 16, &parent.time);
        let mut name: Vec<u8> = parent.name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        name.truncate(PARENT_NAME_LEN);
        put(&mut bytes, dynamic::PARENT_NAME, &name);
        for (number, (code, text, offset)) in parent.locators.iter().enumerate() {
            let at = dynamic::LOCATORS + number * LOCATOR;
            put(&mut bytes, at, code);
            // In bytes, as Windows writes it, though the specification says sectors.
            put(&mut bytes, at + 4, &(SECTOR as u32 * (text.len() as u32).div_ceil(SECTOR as u32)).to_be_bytes());
            put(&mut bytes, at + 8, &(text.len() as u32).to_be_bytes());
            put(&mut bytes, at + 16, &offset.get().to_be_bytes());
        }
    }
    let sum = checksum(&bytes, dynamic::CHECKSUM);
    put(&mut bytes, dynamic::CHECKSUM, &sum.to_be_bytes());
    bytes
}

/// The text of a locator for a parent called `name`: Windows' separators, and a relative name says that it is one.
pub fn locator(name: &str) -> ([u8; 4], Vec<u8>) {
    if name.starts_with('/') {
        // No drive: read back as it is, here and by other programs on such systems.
        return (*b"W2ku", to_utf16_le(&name.replace('/', "\\")));
    }
    (*b"W2ru", to_utf16_le(&alloc::format!(".\\{}", name.replace('/', "\\"))))
}
