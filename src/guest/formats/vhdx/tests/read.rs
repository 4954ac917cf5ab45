//! Where the bytes of a disk are; images after [MS-VHDX], built here.

use instar_format_vhdx::Vhdx;
use instar_format_vhdx::layout::{HEADERS, LOCATOR_VHDX, REGION_TABLES, checksum, header, item, region, state};
use instar_image::{DeviceId, Extent, FileOffset, Format, Image, OpenContext, Place, Probe, Purpose, Result, Version};
use instar_sim::{Disk, Machine};

const MIB: u64 = 1 << 20;
const METADATA: u64 = 2 * MIB;
const BAT: u64 = 3 * MIB;
const SIZE: u64 = 8 * MIB;

fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&bytes, 4);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Blocks of 1 MiB; the table begins with `entries`.
fn image(entries: &[u64], parent: bool) -> Disk {
    let mut disk = Disk::default();
    disk.write(FileOffset::ZERO, b"vhdxfile");
    let mut head = vec![0; 4096];
    put(&mut head, 0, b"head");
    put(&mut head, header::VERSION, &1u16.to_le_bytes());
    put(&mut head, header::LOG_LENGTH, &(MIB as u32).to_le_bytes());
    put(&mut head, header::LOG_OFFSET, &MIB.to_le_bytes());
    HEADERS.iter().for_each(|at| disk.write(*at, &summed(head.clone())));
    let mut table = vec![0; 65536];
    put(&mut table, 0, b"regi");
    put(&mut table, 8, &2u32.to_le_bytes());
    for (i, (guid, at)) in [(region::BAT, BAT), (region::METADATA, METADATA)].into_iter().enumerate() {
        put(&mut table, 16 + i * 32, &guid);
        put(&mut table, 32 + i * 32, &at.to_le_bytes());
        put(&mut table, 40 + i * 32, &(MIB as u32).to_le_bytes());
        put(&mut table, 44 + i * 32, &[1]);
    }
    REGION_TABLES.iter().for_each(|at| disk.write(*at, &summed(table.clone())));
    let mut locator = vec![0; 32];
    put(&mut locator, 0, &LOCATOR_VHDX);
    put(&mut locator, 18, &[1]);
    let (key, value) = ("relative_path", ".\\p");
    for (at, number) in [(20, 32u32), (24, 32 + 2 * key.len() as u32)] {
        put(&mut locator, at, &number.to_le_bytes());
    }
    put(&mut locator, 28, &[2 * key.len() as u8, 0, 2 * value.len() as u8, 0]);
    [key, value].iter().for_each(|t| locator.extend(t.encode_utf16().flat_map(u16::to_le_bytes)));
    let parameters = [(MIB as u32).to_le_bytes(), (u32::from(parent) * 2).to_le_bytes()].concat();
    let items = [
        (item::FILE_PARAMETERS, parameters),
        (item::DISK_SIZE, SIZE.to_le_bytes().to_vec()),
        (item::DISK_ID, vec![7; 16]),
        (item::LOGICAL_SECTOR, 512u32.to_le_bytes().to_vec()),
        (item::PHYSICAL_SECTOR, 4096u32.to_le_bytes().to_vec()),
        (item::PARENT_LOCATOR, locator),
    ];
    let count = if parent { 6 } else { 5 };
    let mut metadata = vec![0; MIB as usize];
    put(&mut metadata, 0, b"metadata");
    put(&mut metadata, 10, &[count]);
    for (i, (guid, content)) in items.iter().take(count.into()).enumerate() {
        let at = 65536 + i * 256;
        put(&mut metadata, 32 + i * 32, guid);
        put(&mut metadata, 48 + i * 32, &(at as u32).to_le_bytes());
        put(&mut metadata, 52 + i * 32, &(content.len() as u32).to_le_bytes());
        put(&mut metadata, 56 + i * 32, &[4]);
        put(&mut metadata, at, content);
    }
    disk.write(FileOffset::new(METADATA), &metadata);
    disk.write(FileOffset::new(BAT), &entries.iter().flat_map(|e| e.to_le_bytes()).collect::<Vec<_>>());
    disk.set_len(16 * MIB);
    disk
}

fn open(machine: &Machine, disk: Disk) -> Result<Box<dyn Image + '_>> {
    let device = machine.add_disk(disk);
    let version = Version::default();
    Vhdx.open(OpenContext::alone(machine, device, b"x", version, Purpose::Describe))
}

fn extents(image: &dyn Image) -> Vec<(u64, u64, Place)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < image.virtual_size() {
        let Ok(Extent { at: begin, len, place }) = image.extent(at, u64::MAX) else { break };
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
fn the_signature_must_come_first() {
    let score = |head: &[u8]| Vhdx.probe(&Probe { head, len: 1 << 20, name: b"disk" });
    assert_eq!(score(b"vhdxfile"), 100);
    assert_eq!(score(b"vhdxfil"), 0);
}

#[test]
fn neighbours_are_merged() {
    let machine = Machine::new();
    let full = |at: u64| (at * MIB) | state::FULLY_PRESENT;
    let entries = [0, state::ZERO, full(4), full(5), full(8), state::UNMAPPED, full(7), full(6)];
    let image = open(&machine, image(&entries, false)).expect("it is sound");
    let zero = Place::Zero { at: None };
    assert_eq!(
        extents(&*image),
        [
            (0, 2 * MIB, zero),
            (2 * MIB, 2 * MIB, data(4 * MIB)),
            (4 * MIB, MIB, data(8 * MIB)),
            (5 * MIB, MIB, zero),
            (6 * MIB, MIB, data(7 * MIB)),
            (7 * MIB, MIB, data(6 * MIB)),
        ]
    );
}

#[test]
fn sectors_are_the_parents_or_the_childs() {
    let machine = Machine::new();
    let mut entries = vec![0; 4097];
    entries[1] = (5 * MIB) | state::PARTIALLY_PRESENT;
    entries[2] = (6 * MIB) | state::FULLY_PRESENT;
    entries[3] = state::ZERO;
    entries[4096] = (4 * MIB) | state::FULLY_PRESENT;
    let mut disk = image(&entries, true);
    // Block 1 begins with sector 2048 of the chunk; its sectors 3, 4 and 9 are the child's.
    disk.write(FileOffset::new(4 * MIB + 256), &[0b0001_1000, 0b10]);
    let image = open(&machine, disk).expect("it is sound");
    let none = Place::Unallocated;
    assert_eq!(
        extents(&*image),
        [
            (0, MIB, none),
            (MIB, 3 * 512, none),
            (MIB + 3 * 512, 1024, data(5 * MIB + 3 * 512)),
            (MIB + 5 * 512, 4 * 512, none),
            (MIB + 9 * 512, 512, data(5 * MIB + 9 * 512)),
            (MIB + 10 * 512, MIB - 10 * 512, none),
            (2 * MIB, MIB, data(6 * MIB)),
            (3 * MIB, MIB, Place::Zero { at: None }),
            (4 * MIB, 4 * MIB, none),
        ]
    );
    assert_eq!(image.backing().map(|b| b.name), Some(b"p".to_vec()));
}

#[test]
fn no_byte_makes_it_panic() {
    let whole = image(&[(4 * MIB) | state::FULLY_PRESENT, state::PARTIALLY_PRESENT], true);
    let (metadata, bat) = (FileOffset::new(METADATA), FileOffset::new(BAT));
    let parts = [(HEADERS[1], 88), (REGION_TABLES[0], 80), (metadata, 224), (metadata + 65536, 2048), (bat, 16)];
    for at in parts.into_iter().flat_map(|(first, count)| (0..count).map(move |i| first + i)) {
        for byte in [1, 0x7f, 0xff] {
            let mut disk = whole.clone();
            disk.write(at, &[byte]);
            for (start, len) in [(HEADERS[1], 4096), (REGION_TABLES[0], 65536)] {
                let mut bytes = vec![0; len];
                disk.read(start, &mut bytes);
                disk.write(start, &summed(bytes));
            }
            if let Ok(image) = open(&Machine::new(), disk)
                && image.virtual_size() < 1 << 40
            {
                extents(&*image);
            }
        }
    }
}
