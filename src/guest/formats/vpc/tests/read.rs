//! Where the bytes of a disk are; images after Microsoft's specification, built here.

use instar_format_vpc::Vpc;
use instar_format_vpc::layout::{checksum, dynamic, footer};
use instar_image::{
    DeviceId, Extent, FileOffset, Format, Image, OpenContext, Place, Probe, Purpose, Result, Source, Version,
};
use instar_sim::Machine;

const BLOCK: u64 = 4096;
const TABLE: usize = 1536;
const BLOCKS_AT: u64 = 2048;

/// Two blocks of a disk of five: number 1 and number 4, each behind a sector of bitmap.
fn image(kind: u32) -> Vec<u8> {
    let mut foot = vec![0; 512];
    foot[..8].copy_from_slice(b"conectix");
    foot[footer::DATA_OFFSET..][..8].copy_from_slice(&512u64.to_be_bytes());
    foot[footer::CREATOR..][..4].copy_from_slice(b"win ");
    foot[footer::CURRENT_SIZE..][..8].copy_from_slice(&(5 * BLOCK).to_be_bytes());
    foot[footer::TYPE..][..4].copy_from_slice(&kind.to_be_bytes());
    let sum = checksum(&foot, footer::CHECKSUM);
    foot[footer::CHECKSUM..][..4].copy_from_slice(&sum.to_be_bytes());
    let mut head = vec![0; 1024];
    head[..8].copy_from_slice(b"cxsparse");
    head[dynamic::TABLE_OFFSET..][..8].copy_from_slice(&(TABLE as u64).to_be_bytes());
    head[dynamic::MAX_ENTRIES..][..4].copy_from_slice(&5u32.to_be_bytes());
    head[dynamic::BLOCK_SIZE..][..4].copy_from_slice(&(BLOCK as u32).to_be_bytes());
    head[dynamic::PARENT_NAME..][..4].copy_from_slice(b"\0p\0q");
    let mut table = vec![0xff; 512];
    table[4..8].copy_from_slice(&((BLOCKS_AT / 512) as u32).to_be_bytes());
    table[16..20].copy_from_slice(&((BLOCKS_AT / 512) as u32 + 9).to_be_bytes());
    let mut blocks = vec![0x11; 2 * (512 + BLOCK as usize)];
    // Of the first, sectors 1, 2 and 7 are the child's; of the second, all.
    blocks[..512].fill(0);
    blocks[0] = 0b0110_0001;
    blocks[4608] = 0xff;
    [foot.clone(), head, table, blocks, foot].concat()
}

fn open<'a>(machine: &'a Machine, bytes: &[u8]) -> Result<Box<dyn Image + 'a>> {
    let device = machine.add(bytes);
    let version = Version::default();
    Vpc.open(OpenContext::alone(machine, device, b"x", version, Purpose::Describe))
}

fn extents(image: &dyn Image) -> Vec<(u64, u64, Place)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < image.virtual_size() {
        let Extent { at: begin, len, place } = image.extent(at, u64::MAX).expect("in range");
        assert!(begin == at && len > 0);
        found.push((at, len, place));
        at += len;
    }
    found
}

fn data(offset: u64) -> Place {
    Place::Data { device: DeviceId(0), offset: FileOffset::new(offset) }
}

#[test]
fn the_cookie_must_come_first() {
    let score = |head: &[u8]| Vpc.probe(&Probe { head, len: 1 << 20, name: b"disk" });
    assert_eq!(score(b"conectix\0\0"), 100);
    assert_eq!(score(b"xconectix"), 0);
}

#[test]
fn blocks_lie_behind_their_bitmaps() {
    let machine = Machine::new();
    let image = open(&machine, &image(3)).expect("it is sound");
    let hole = Place::Zero { at: None };
    let first = data(BLOCKS_AT + 512);
    let second = data(BLOCKS_AT + 512 + BLOCK + 512);
    assert_eq!(
        extents(&*image),
        [(0, BLOCK, hole), (BLOCK, BLOCK, first), (2 * BLOCK, 2 * BLOCK, hole), (4 * BLOCK, BLOCK, second)]
    );
    assert!(image.backing().is_none());
}

#[test]
fn sectors_without_a_bit_are_the_parents() {
    let machine = Machine::new();
    let image = open(&machine, &image(4)).expect("it is sound");
    let first = BLOCKS_AT + 512;
    let none = Place::Unallocated;
    assert_eq!(
        extents(&*image),
        [
            (0, BLOCK, none),
            (BLOCK, 512, none),
            (BLOCK + 512, 1024, data(first + 512)),
            (BLOCK + 1536, 2048, none),
            (BLOCK + 3584, 512, data(first + 3584)),
            (2 * BLOCK, 2 * BLOCK, none),
            (4 * BLOCK, BLOCK, data(first + BLOCK + 512)),
        ]
    );
    assert_eq!(image.backing().map(|b| b.name), Some(b"pq".to_vec()));
    let machine = Machine::new();
    machine.set_stock();
    assert!(machine.is_stock());
    let image = open(&machine, &self::image(4)).expect("it is sound");
    assert!(image.backing().is_none());
    assert_eq!(extents(&*image).len(), 4);
}

#[test]
fn no_cut_and_no_byte_makes_it_panic() {
    let whole = image(4);
    for len in 0..whole.len() {
        if let Ok(image) = open(&Machine::new(), &whole[..len]) {
            extents(&*image);
        }
    }
    for at in (0..TABLE + 32).filter(|at| !(120..500).contains(at)) {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            let sum = checksum(&bytes[..512], footer::CHECKSUM);
            bytes[footer::CHECKSUM..][..4].copy_from_slice(&sum.to_be_bytes());
            if let Ok(image) = open(&Machine::new(), &bytes)
                && image.virtual_size() < 1 << 20
            {
                extents(&*image);
            }
        }
    }
}
