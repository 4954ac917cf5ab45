//! The header of a new image.

use super::spec::{GRAIN, Spec, TABLE, TEXT_SECTORS};
use crate::layout::{
    FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, FLAG_REDUNDANT, FLAG_ZERO_GRAIN, HEADER, MAGIC_SPARSE, SECTOR, field,
};

/// Bytes that show a transfer that has changed line ends.
const LINE_ENDS: &[u8] = b"\n \r\n";

/// The first sector.
pub fn header(spec: &Spec) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    };
    let version: u32 = match (spec.packed, spec.zeroed_grain) {
        (true, _) => 3,
        (false, true) => 2,
        (false, false) => 1,
    };
    let zeroes = if spec.zeroed_grain { FLAG_ZERO_GRAIN } else { 0 };
    let packed = if spec.packed { FLAG_COMPRESSED | FLAG_MARKERS } else { 0 };
    put(0, MAGIC_SPARSE);
    put(field::VERSION, &version.to_le_bytes());
    put(field::FLAGS, &(FLAG_NEWLINES | FLAG_REDUNDANT | zeroes | packed).to_le_bytes());
    put(field::CAPACITY, &(spec.size / SECTOR).to_le_bytes());
    put(field::GRAIN, &(GRAIN / SECTOR).to_le_bytes());
    put(field::TEXT, &1u64.to_le_bytes());
    put(field::TEXT_LEN, &TEXT_SECTORS.to_le_bytes());
    put(field::TABLE, &(TABLE as u32).to_le_bytes());
    put(field::SECOND, &(spec.directory(0) / SECTOR).to_le_bytes());
    put(field::DIRECTORY, &(spec.directory(1) / SECTOR).to_le_bytes());
    put(field::OVERHEAD, &(spec.data() / SECTOR).to_le_bytes());
    put(field::LINE_ENDS, LINE_ENDS);
    put(field::COMPRESSION, &u16::from(spec.packed).to_le_bytes());
    bytes
}
