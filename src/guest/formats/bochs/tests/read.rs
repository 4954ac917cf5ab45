//! Where the bytes of a disk are; images after the Bochs documentation, built here.

use instar_format_bochs::Bochs;
use instar_image::{DeviceId, FileOffset, Format, Image, OpenContext, Place, Purpose, Result, Version};
use instar_sim::Machine;

const EXTENT: u64 = 2048;

/// Three extents of which the last is stored first, with its sectors 1 and 2, then the first with sector 0.
fn image() -> Vec<u8> {
    let mut head = vec![0; 512];
    head[..22].copy_from_slice(b"Bochs Virtual HD Image");
    head[32..39].copy_from_slice(b"Redolog");
    head[48..55].copy_from_slice(b"Growing");
    for (at, number) in [(64, 0x2_0000u32), (68, 512), (72, 3), (76, 1), (80, EXTENT as u32)] {
        head[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    head[88..96].copy_from_slice(&(3 * EXTENT).to_le_bytes());
    let catalog = [1u32, u32::MAX, 0].iter().flat_map(|e| e.to_le_bytes()).collect();
    let stored = |bits: u8| [vec![bits], vec![0; 511], vec![0xaa; EXTENT as usize]].concat();
    [head, catalog, stored(0b0110), stored(0b0001)].concat()
}

fn open<'a>(machine: &'a Machine, bytes: &[u8]) -> Result<Box<dyn Image + 'a>> {
    let (device, version) = (machine.add(bytes), Version::default());
    Bochs.open(OpenContext::alone(machine, device, b"x", version, Purpose::Describe))
}

#[test]
fn catalog_and_bitmaps() {
    let machine = Machine::new();
    let image = open(&machine, &image()).expect("valid");
    assert_eq!(image.virtual_size(), 3 * EXTENT);
    let data = |offset| Place::Data { device: DeviceId(0), offset: FileOffset::new(offset) };
    let zero = Place::Zero { at: None };
    let (first, second) = (524 + 512, 524 + 512 + 2048 + 512);
    for (at, len, place) in [
        (0, 512, data(second)),
        (100, 412, data(second + 100)),
        (512, 1536, zero),
        (2048, 2048, zero),
        (4096, 512, zero),
        (4608, 1024, data(first + 512)),
        (5632, 512, zero),
    ] {
        let extent = image.extent(at, u64::MAX).expect("in range");
        assert_eq!((extent.at, extent.len, extent.place), (at, len, place), "at {at}");
    }
    assert_eq!(image.extent(4608, 7).expect("in range").len, 7);
    assert!(image.extent(3 * EXTENT, 1).is_err());
}

#[test]
fn no_number_makes_it_panic() {
    for field in (64..96).step_by(4).chain([512, 516, 520]) {
        for value in [0, 1, 511, 513, 1 << 20, 1 << 23, 1 << 31, u32::MAX - 1, u32::MAX] {
            let machine = Machine::new();
            let mut bytes = image();
            bytes[field..field + 4].copy_from_slice(&value.to_le_bytes());
            let Ok(image) = open(&machine, &bytes) else { continue };
            let mut at = 0;
            for _ in 0..100 {
                if at >= image.virtual_size() {
                    break;
                }
                let extent = image.extent(at, u64::MAX).expect("told when it is read");
                assert!(extent.at == at && extent.len > 0);
                at = extent.end();
            }
        }
    }
}
