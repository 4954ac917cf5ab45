//! The structures' bytes.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::windows::{guid, to_utf16_le};
use instar_image::{DeviceId, FileOffset, Machine, Result, Step};

use super::spec::{LOG, SECTOR, Spec};
use crate::layout::{
    FILE_SIGNATURE, HEADER, HEADERS, LOCATOR_VHDX, REGION_TABLES, TABLE, checksum, header, item, put, region,
};
use crate::metadata::{HAS_PARENT, LEAVE_ALLOCATED};

/// Who made the file, as its first structure says.
const CREATOR: &str = "instar";
/// Where the checksum is in headers and region tables.
const CHECKSUM: usize = 4;
/// Flags of items: required; required and of the disk.
const REQUIRED: u32 = 4;
const OF_DISK: u32 = 6;

fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&bytes, CHECKSUM);
    put(&mut bytes, CHECKSUM, &sum.to_le_bytes());
    bytes
}

/// A header with an empty log.
fn header_of(spec: &Spec, sequence: u64, ids: &[[u8; 16]; 2]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    put(&mut bytes, 0, b"head");
    put(&mut bytes, header::SEQUENCE, &sequence.to_le_bytes());
    put(&mut bytes, header::FILE_WRITE_GUID, &ids[0]);
    put(&mut bytes, header::DATA_WRITE_GUID, &ids[1]);
    put(&mut bytes, header::VERSION, &1u16.to_le_bytes());
    put(&mut bytes, header::LOG_LENGTH, &(spec.log_len as u32).to_le_bytes());
    put(&mut bytes, header::LOG_OFFSET, &LOG.get().to_le_bytes());
    summed(bytes)
}

fn region_table(spec: &Spec) -> Vec<u8> {
    let mut bytes = vec![0; TABLE];
    let (metadata, metadata_len) = spec.metadata();
    put(&mut bytes, 0, b"regi");
    put(&mut bytes, 8, &2u32.to_le_bytes());
    let regions = [(region::BAT, spec.geometry().bat, spec.bat_len()), (region::METADATA, metadata, metadata_len)];
    for (number, (guid, at, len)) in regions.into_iter().enumerate() {
        let entry = 16 + number * 32;
        put(&mut bytes, entry, &guid);
        put(&mut bytes, entry + 16, &at.get().to_le_bytes());
        put(&mut bytes, entry + 24, &(len as u32).to_le_bytes());
        // Not marked as required, as QEMU has it: everybody knows these two.
    }
    summed(bytes)
}

/// A parent locator: who the parent is, and its name.
pub fn locator(name: &str, linkage: &[u8; 16]) -> Vec<u8> {
    let path = name.replace('/', "\\");
    let (key, path) =
        if name.starts_with('/') { ("absolute_win32_path", path) } else { ("relative_path", format!(".\\{path}")) };
    let pairs = [("parent_linkage", braced(linkage)), (key, path)];
    let mut bytes = vec![0; 20 + 12 * pairs.len()];
    put(&mut bytes, 0, &LOCATOR_VHDX);
    put(&mut bytes, 18, &(pairs.len() as u16).to_le_bytes());
    for (number, (key, value)) in pairs.iter().enumerate() {
        let entry = 20 + number * 12;
        for (text, at, len) in [(*key, entry, entry + 8), (value.as_str(), entry + 4, entry + 10)] {
            let text = to_utf16_le(text);
            let offset = bytes.len() as u32;
            put(&mut bytes, at, &offset.to_le_bytes());
            put(&mut bytes, len, &(text.len() as u16).to_le_bytes());
            bytes.extend_from_slice(&text);
        }
    }
    bytes
}

/// A GUID as text.
fn braced(guid: &[u8; 16]) -> String {
    let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = *guid;
    let (a, b, c) = (u32::from_le_bytes([a0, a1, a2, a3]), u16::from_le_bytes([b0, b1]), u16::from_le_bytes([c0, c1]));
    let [d0, d1, e @ ..] = rest;
    let e = e.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    format!("{{{a:08x}-{b:04x}-{c:04x}-{d0:02x}{d1:02x}-{e:012x}}}")
}

/// The used part of the metadata region.
fn metadata(spec: &Spec, disk_id: &[u8; 16], linkage: Option<&[u8; 16]>) -> Vec<u8> {
    let flags = if linkage.is_some() { HAS_PARENT } else { u32::from(spec.fixed) * LEAVE_ALLOCATED };
    let parameters = [(spec.block as u32).to_le_bytes(), flags.to_le_bytes()].concat();
    let sector = (SECTOR as u32).to_le_bytes().to_vec();
    let mut items = vec![
        (item::FILE_PARAMETERS, parameters, REQUIRED),
        (item::DISK_SIZE, spec.size.to_le_bytes().to_vec(), OF_DISK),
        (item::DISK_ID, disk_id.to_vec(), OF_DISK),
        (item::LOGICAL_SECTOR, sector.clone(), OF_DISK),
        (item::PHYSICAL_SECTOR, sector, OF_DISK),
    ];
    if let (Some(name), Some(linkage)) = (&spec.parent, linkage) {
        items.push((item::PARENT_LOCATOR, locator(name, linkage), REQUIRED));
    }
    let mut bytes = vec![0; TABLE];
    put(&mut bytes, 0, b"metadata");
    put(&mut bytes, 10, &(items.len() as u16).to_le_bytes());
    for (number, (guid, content, flags)) in items.iter().enumerate() {
        let entry = 32 + number * 32;
        let offset = bytes.len() as u32;
        put(&mut bytes, entry, guid);
        put(&mut bytes, entry + 16, &offset.to_le_bytes());
        put(&mut bytes, entry + 20, &(content.len() as u32).to_le_bytes());
        put(&mut bytes, entry + 24, &flags.to_le_bytes());
        bytes.extend_from_slice(content);
    }
    bytes
}

/// Writes all but the block allocation table, what makes the file a VHDX last.
pub fn write(machine: &dyn Machine, device: DeviceId, spec: &Spec, linkage: Option<&[u8; 16]>) -> Result<()> {
    let id = || guid(machine.random_id());
    let ids = [id(), id()];
    let items = metadata(spec, &id(), linkage);
    let table = region_table(spec);
    let [a, b, c, d, ..] = machine.random_id();
    let sequence = u64::from(u32::from_le_bytes([a, b, c, d]));
    let headers = [header_of(spec, sequence, &ids), header_of(spec, sequence + 1, &ids)];
    let mut identifier = FILE_SIGNATURE.to_vec();
    identifier.extend(to_utf16_le(CREATOR));
    machine.submit(&[
        Step::Write { device, offset: spec.metadata().0, data: &items },
        Step::Write { device, offset: REGION_TABLES[0], data: &table },
        Step::Write { device, offset: REGION_TABLES[1], data: &table },
        Step::Write { device, offset: HEADERS[0], data: &headers[0] },
        Step::Write { device, offset: HEADERS[1], data: &headers[1] },
        Step::Barrier { device },
        Step::Write { device, offset: FileOffset::ZERO, data: &identifier },
        Step::Barrier { device },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_written_as_windows_writes_them() {
        assert_eq!(braced(&region::BAT), "{2dc27766-f623-4200-9d64-115e9bfd4a08}");
    }
}
