//! Blocks and their table; images after the driver's header file, built here with stored (uncompressed) deflate.

use instar_format_cloop::Cloop;
use instar_format_cloop::layout::SCRIPT;
use instar_image::{Compressed, DeviceId, FileOffset, Format, Image, OpenContext, Place, Purpose, Result, Version};
use instar_sim::Machine;

/// A zlib stream of one stored block (RFC 1950, 1951).
fn zlib(data: &[u8]) -> Vec<u8> {
    let len = data.len() as u16;
    let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    let ends = [len.to_le_bytes(), (!len).to_le_bytes()].concat();
    [&[0x78, 0x01, 1][..], &ends, data, &(b << 16 | a).to_be_bytes()].concat()
}

fn image(blocks: &[&[u8]], offsets: Option<&[u64]>) -> Vec<u8> {
    let start = 136 + 8 * (blocks.len() as u64 + 1);
    let mut table = vec![start];
    for block in blocks {
        table.push(table.last().expect("never empty") + block.len() as u64);
    }
    let mut head = SCRIPT.to_vec();
    head.resize(128, 0);
    head.extend(1024u32.to_be_bytes());
    head.extend((blocks.len() as u32).to_be_bytes());
    head.extend(offsets.unwrap_or(&table).iter().flat_map(|o| o.to_be_bytes()));
    [head, blocks.concat()].concat()
}

fn open<'a>(machine: &'a Machine, bytes: &[u8]) -> Result<Box<dyn Image + 'a>> {
    let (device, version) = (machine.add(bytes), Version::default());
    Cloop.open(OpenContext::alone(machine, device, b"x", version, Purpose::Describe))
}

#[test]
fn blocks_are_found_and_inflated() {
    let content: Vec<u8> = (0..1024).map(|i| (i % 251) as u8).collect();
    let stored = zlib(&content);
    let machine = Machine::new();
    let image = open(&machine, &image(&[&zlib(&[0; 1024]), &stored], None)).expect("valid");
    assert_eq!(image.virtual_size(), 2048);
    let extent = image.extent(1500, u64::MAX).expect("in range");
    let offset = FileOffset::new(136 + 24 + stored.len() as u64);
    let compressed = Compressed { device: DeviceId(0), offset, len: stored.len() as u64, unit: 1024, skip: 476 };
    assert_eq!((extent.len, extent.place), (548, Place::Compressed(compressed)));
    let mut out = vec![0; 1024];
    let mut decoder = image.decoder().expect("it compresses");
    decoder.decompress(&compressed, &stored, &mut out).expect("valid");
    assert!(out == content);
    let mut wrong = stored.clone();
    *wrong.last_mut().expect("not empty") ^= 1;
    assert!(decoder.decompress(&compressed, &wrong, &mut out).is_err());
    assert!(decoder.decompress(&compressed, &zlib(&content[..1000]), &mut out).is_err());
    assert!(decoder.decompress(&compressed, &[], &mut out).is_err());
}

#[test]
fn the_table_is_checked() {
    let error = |offsets: &[u64]| {
        let machine = Machine::new();
        open(&machine, &image(&[b"ab", b"cd"], Some(offsets))).err().map(|e| e.message).unwrap_or_default()
    };
    assert_eq!(error(&[160, 162, 164]), "");
    assert_eq!(error(&[160, 159, 164]), "offsets not monotonically increasing at index 1, image file is corrupt");
    let far = 160 + (128 << 20) + 1;
    assert_eq!(error(&[160, 160, far]), "invalid compressed block size at index 2, image file is corrupt");
}
