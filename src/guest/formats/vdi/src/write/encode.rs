//! The header's bytes.

use instar_image::Step;
use instar_image::{DeviceId, FileOffset};

use super::Spec;
use crate::layout::{
    BLOCK, HEADER_LEN, SECTOR, SIGNATURE, SIGNATURE_AT, TYPE_DYNAMIC, TYPE_STATIC, VERSION_1_1, field,
};

/// At the beginning of the file: what QEMU calls its images.
const TEXT: &[u8] = b"<<< QEMU VM Virtual Disk Image >>>\n";
/// Bytes of the header from its own length on.
const LENGTH: u32 = 0x180;

/// The header of a disk with so many blocks in the file.
pub fn header(spec: &Spec, allocated: u64) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    };
    let kind = if spec.all { TYPE_STATIC } else { TYPE_DYNAMIC };
    put(0, TEXT);
    for (at, value) in [
        (SIGNATURE_AT, SIGNATURE),
        (field::VERSION, VERSION_1_1),
        (field::HEADER_SIZE, LENGTH),
        (field::TYPE, kind),
        (field::MAP_OFFSET, HEADER_LEN as u32),
        (field::DATA_OFFSET, spec.data().get() as u32),
        (field::SECTOR_SIZE, SECTOR as u32),
        (field::BLOCK_SIZE, BLOCK as u32),
        (field::BLOCKS, spec.count() as u32),
        (field::ALLOCATED, allocated as u32),
    ] {
        put(at, &value.to_le_bytes());
    }
    put(field::DISK_SIZE, &spec.size.to_le_bytes());
    put(field::UUID, &spec.ids[0]);
    put(field::SNAPSHOT_UUID, &spec.ids[1]);
    bytes
}

/// What makes the file an image, when all else is there.
pub fn finish(device: DeviceId, header: &[u8]) -> [Step<'_>; 3] {
    [Step::Barrier { device }, Step::Write { device, offset: FileOffset::ZERO, data: header }, Step::Barrier { device }]
}
