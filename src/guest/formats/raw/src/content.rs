//! What a raw disk holds, as far as its first sectors tell. For information only: no decision rests on it.

use alloc::vec;

use instar_image::reader::Reader;
use instar_image::{DeviceId, FileOffset, Read, Result, Source};

/// What was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A partition table in the first sector (DOS).
    Mbr,
    /// A GUID partition table (UEFI).
    Gpt,
    /// An ISO 9660 file system. It may have a partition table as well; this is the more telling.
    Iso9660,
    /// LUKS version 2, which `qemu-img` takes for raw.
    Luks2,
}

impl Content {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mbr => "mbr",
            Self::Gpt => "gpt",
            Self::Iso9660 => "iso9660",
            Self::Luks2 => "luks2",
        }
    }
}

/// Bytes read from the start: the boot sector and the GPT header for sectors of 512 and of 4096 bytes.
const HEAD: usize = 8192;
const BOOT_SIGNATURE: (usize, &[u8]) = (510, b"\x55\xaa");
/// Four entries of 16 bytes; the type is their fifth byte, 0 for an empty entry.
const PARTITIONS: [usize; 4] = [446, 462, 478, 494];
const PARTITION_TYPE: usize = 4;
/// What the first byte of an entry may be: bootable or not.
const PARTITION_FLAGS: [u8; 2] = [0x00, 0x80];
const PARTITION_FIRST_LBA: usize = 8;
const PARTITION_SECTORS: usize = 12;
const GPT_SIGNATURE: &[u8] = b"EFI PART";
const GPT_AT: [usize; 2] = [512, 4096];
/// The first volume descriptor is sector 16 of 2048 bytes; its identifier follows a type byte.
const ISO_AT: FileOffset = FileOffset::new(16 * 2048 + 1);
const ISO_SIGNATURE: &[u8] = b"CD001";
const LUKS2: &[u8] = b"LUKS\xba\xbe\0\x02";

/// Looks at `device`.
///
/// # Errors
/// Where it cannot be read.
pub fn recognise(source: &dyn Source, device: DeviceId) -> Result<Option<Content>> {
    let mut head = vec![0; HEAD];
    let mut volume = [0; ISO_SIGNATURE.len()];
    source.read_many(&mut [
        Read { device, offset: FileOffset::ZERO, buf: &mut head },
        Read { device, offset: ISO_AT, buf: &mut volume },
    ])?;
    let reader = Reader::new(&head);
    let has = |(at, bytes): (usize, &[u8])| reader.bytes(at, bytes.len()).is_ok_and(|b| b == bytes);
    Ok(if has((0, LUKS2)) {
        Some(Content::Luks2)
    } else if volume == ISO_SIGNATURE {
        Some(Content::Iso9660)
    } else if GPT_AT.into_iter().any(|at| has((at, GPT_SIGNATURE))) {
        Some(Content::Gpt)
    } else if has(BOOT_SIGNATURE) && has_partitions(&reader)? {
        Some(Content::Mbr)
    } else {
        None
    })
}

/// Whether the four entries make sense and one of them is used. Boot sectors of file systems have the same
/// signature and code in this place.
fn has_partitions(reader: &Reader<'_>) -> Result<bool> {
    let mut used = false;
    for at in PARTITIONS {
        let entry = Reader::new(reader.bytes(at, 16)?);
        if !PARTITION_FLAGS.contains(&entry.u8(0)?) {
            return Ok(false);
        }
        if entry.u8(PARTITION_TYPE)? != 0 {
            if entry.le32(PARTITION_FIRST_LBA)? == 0 || entry.le32(PARTITION_SECTORS)? == 0 {
                return Ok(false);
            }
            used = true;
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn content(bytes: &[u8]) -> Option<Content> {
        let machine = instar_sim::Machine::new();
        let device = machine.add(bytes);
        recognise(&machine, device).expect("readable")
    }

    fn mbr() -> Vec<u8> {
        let mut disk = vec![0; 65536];
        disk[510..512].copy_from_slice(b"\x55\xaa");
        disk[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
        disk
    }

    #[test]
    fn partition_tables() {
        assert_eq!(content(&[]), None);
        assert_eq!(content(&mbr()), Some(Content::Mbr));
        let mut boot_code = mbr();
        boot_code[462] = 0x33;
        assert_eq!(content(&boot_code), None);
        let mut gpt = mbr();
        gpt[512..520].copy_from_slice(GPT_SIGNATURE);
        assert_eq!(content(&gpt), Some(Content::Gpt));
    }

    #[test]
    fn other_content() {
        let mut iso = mbr();
        iso[32769..32774].copy_from_slice(ISO_SIGNATURE);
        assert_eq!(content(&iso), Some(Content::Iso9660));
        assert_eq!(content(LUKS2), Some(Content::Luks2));
    }
}
