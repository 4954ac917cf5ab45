//! Where the bytes of the disk are.

mod fixture;

use fixture::{CLUSTER, COMPRESSED, COPIED, DATA, Fixture, L1, L2};
use instar_codec::{Deflater, ZstdEncoder};
use instar_format_qcow2::Qcow2;
use instar_format_qcow2::layout::{extension, field, incompatible};
use instar_image::image::SnapshotSelector;
use instar_image::{Extent, FileOffset, Format, Image, OpenContext, Place, Purpose, Source, Version};
use instar_sim::{Disk, Machine};

const SIZE: u64 = 10 << 20;

fn open(machine: &Machine, disk: Disk) -> Box<dyn Image + '_> {
    let device = machine.add_disk(disk);
    let version = Version::default();
    let opener: Option<&dyn instar_image::machine::Opener> = Some(machine);
    let cx = OpenContext { source: machine, opener, device, name: b"x", version, purpose: Purpose::Read, options: &[] };
    Qcow2.open(cx).expect("it opens")
}

/// All extents, or the text of the error that the walk met.
fn walk(fixture: &Fixture) -> Result<Vec<Extent>, String> {
    let machine = Machine::new();
    machine.name("data", machine.add(vec![0xdd; 3 * CLUSTER as usize]));
    let image = open(&machine, Disk::from_bytes(&fixture.bytes));
    let mut extents = Vec::new();
    let mut at = 0;
    while at < image.virtual_size() {
        let extent = image.extent(at, u64::MAX).map_err(|e| e.message)?;
        assert!(extent.at == at && extent.len > 0);
        at = extent.end();
        extents.push(extent);
    }
    Ok(extents)
}

fn places(fixture: &Fixture) -> Vec<(u64, u64, Place)> {
    walk(fixture).expect("it is sound").iter().map(|e| (e.at, e.len, e.place)).collect()
}

fn data(offset: u64) -> Place {
    Place::Data { device: instar_image::DeviceId(1), offset: FileOffset::new(offset) }
}

fn zero_at(offset: u64) -> Place {
    Place::Zero { at: Some((instar_image::DeviceId(1), FileOffset::new(offset))) }
}

#[test]
fn an_empty_image_is_one_extent() {
    assert_eq!(places(&Fixture::new()), [(0, SIZE, Place::Unallocated)]);
}

#[test]
fn neighbours_are_merged() {
    let mut fixture = Fixture::new();
    fixture.l2(&[DATA | COPIED, (DATA + CLUSTER) | COPIED, DATA, 1, 1, DATA | 1, (DATA + CLUSTER) | 1, 0]);
    let plain = Place::Zero { at: None };
    assert_eq!(
        places(&fixture),
        [
            (0, 2 * CLUSTER, data(DATA)),
            (2 * CLUSTER, CLUSTER, data(DATA)),
            (3 * CLUSTER, 2 * CLUSTER, plain),
            (5 * CLUSTER, 2 * CLUSTER, zero_at(DATA)),
            (7 * CLUSTER, SIZE - 7 * CLUSTER, Place::Unallocated),
        ]
    );
}

#[test]
fn an_extent_can_begin_anywhere_and_be_cut_anywhere() {
    let mut fixture = Fixture::new();
    fixture.l2(&[0, DATA | COPIED]);
    let machine = Machine::new();
    let image = open(&machine, Disk::from_bytes(&fixture.bytes));
    let extent = image.extent(CLUSTER + 1000, 24).expect("it is sound");
    let here = Place::Data { device: instar_image::DeviceId(0), offset: FileOffset::new(DATA + 1000) };
    assert_eq!(extent, Extent { at: CLUSTER + 1000, len: 24, place: here });
    assert_eq!(image.extent(CLUSTER + 1000, u64::MAX).expect("it is sound").len, CLUSTER - 1000);
    assert!(image.extent(SIZE, 1).is_err());
}

#[test]
fn subclusters() {
    let mut fixture = Fixture::new();
    fixture.be64(field::INCOMPATIBLE, incompatible::EXTENDED_L2);
    // Subclusters of 2 KiB: 0 to 3 data, 4 to 7 zero, the rest nothing; then a cluster of zeroes without a place.
    fixture.l2(&[DATA | COPIED, 0xf0_0000_000f, 0, 0xffff_ffff_0000_0000]);
    assert_eq!(
        places(&fixture),
        [
            (0, 8192, data(DATA)),
            (8192, 8192, zero_at(DATA + 8192)),
            (16384, CLUSTER - 16384, Place::Unallocated),
            (CLUSTER, CLUSTER, Place::Zero { at: None }),
            (2 * CLUSTER, SIZE - 2 * CLUSTER, Place::Unallocated),
        ]
    );
}

#[test]
fn what_cannot_be_is_named_as_qemu_names_it() {
    let text =
        |what: &str| format!("qcow2: Image is corrupt: {what}; further non-fatal corruption events will be suppressed");
    let l2 = |entries: &[u64], spoil: &dyn Fn(&mut Fixture)| {
        let mut fixture = Fixture::new();
        fixture.l2(entries);
        spoil(&mut fixture);
        walk(&fixture).expect_err("it is broken")
    };
    let nothing = |_: &mut Fixture| {};
    assert_eq!(
        l2(&[0, (DATA + 512) | COPIED], &nothing),
        text("Cluster allocation offset 0x50200 unaligned (L2 offset: 0x40000, L2 index: 0x1)")
    );
    assert_eq!(
        l2(&[], &|f| {
            f.be64(L1 as usize, L2 + 512);
        }),
        text("L2 table offset 0x40200 unaligned (L1 index: 0)")
    );
    assert_eq!(
        l2(&[1], &|f| {
            f.be32(field::VERSION, 2);
        }),
        text("Zero cluster entry found in pre-v3 image (L2 offset: 0x40000, L2 index: 0)")
    );
    assert_eq!(
        l2(&[DATA, 1 << 32 | 1], &|f| {
            f.be64(field::INCOMPATIBLE, incompatible::EXTENDED_L2);
        }),
        text("Invalid cluster entry found  (L2 offset: 0x40000, L2 index: 0)")
    );
}

#[test]
fn tables_past_the_end_of_the_file_are_empty() {
    let mut fixture = Fixture::new();
    fixture.be64(L1 as usize, 1 << 40);
    assert_eq!(places(&fixture), [(0, SIZE, Place::Unallocated)]);
}

/// One compressed cluster, at an odd place, with other bytes right behind it.
fn compressed(compressed: &[u8]) -> Fixture {
    const ODD: u64 = DATA + 100;
    let sectors = (100 + compressed.len() as u64).div_ceil(512) - 1;
    let mut fixture = Fixture::new();
    fixture.l2(&[COMPRESSED | ODD | sectors << 54]);
    fixture.put(ODD as usize, compressed).put(ODD as usize + compressed.len(), &[0xff; 2048]);
    fixture
}

#[test]
fn compressed_clusters() {
    let content: Vec<u8> = (0..CLUSTER).map(|i| ((i * i) >> 9) as u8).collect();
    let (mut deflated, mut zstd) = (Vec::new(), Vec::new());
    assert!(Deflater::new(6, 12).deflate(&content, &mut deflated, CLUSTER as usize));
    assert!(ZstdEncoder::new(3).encode(&content, &mut zstd, CLUSTER as usize));
    let mut zstd = compressed(&zstd);
    zstd.be32(field::HEADER_LENGTH, 112).put(104, &[1]).be64(field::INCOMPATIBLE, incompatible::COMPRESSION);
    for fixture in [compressed(&deflated), zstd] {
        let machine = Machine::new();
        let image = open(&machine, Disk::from_bytes(&fixture.bytes));
        let extent = image.extent(1000, u64::MAX).expect("it is sound");
        let Place::Compressed(unit) = extent.place else { panic!("{extent:?}") };
        assert_eq!((extent.len, unit.unit, unit.skip), (CLUSTER - 1000, CLUSTER, 1000));
        let mut stored = vec![0; unit.len as usize];
        machine.read(unit.device, unit.offset, &mut stored).expect("it is there");
        let mut out = vec![0; unit.unit as usize];
        let mut decoder = image.decoder().expect("it has one");
        decoder.decompress(&unit, &stored, &mut out).expect("it is whole");
        assert!(out == content);
        let error = decoder.decompress(&unit, &stored[..50], &mut out).expect_err("it is cut");
        assert_eq!(error.message, "Input/output error");
    }
}

#[test]
fn a_data_file_holds_every_cluster_in_its_own_place() {
    let mut fixture = Fixture::new();
    fixture.be64(field::INCOMPATIBLE, incompatible::DATA_FILE).extensions(&[(extension::DATA_FILE, b"data")]);
    fixture.l2(&[COPIED, CLUSTER | COPIED, 0]);
    let found = places(&fixture);
    assert_eq!(found[0], (0, 2 * CLUSTER, Place::Data { device: instar_image::DeviceId(0), offset: FileOffset::ZERO }));
    fixture.l2(&[COPIED, (3 * CLUSTER) | COPIED]);
    assert!(walk(&fixture).expect_err("it is broken").contains("does not match guest cluster offset: 0x10000"));
}

#[test]
fn snapshots_have_tables_of_their_own() {
    const TABLE: u64 = 6 * CLUSTER;
    let mut fixture = Fixture::new();
    fixture.l2(&[DATA | COPIED]);
    fixture.be32(field::SNAPSHOT_COUNT, 1).be64(field::SNAPSHOT_OFFSET, TABLE);
    let at = TABLE as usize;
    fixture.be64(at, 7 * CLUSTER).be32(at + 8, 1).put(at + 12, &[0, 1, 0, 4]).be32(at + 16, 1_600_000_000);
    fixture.be32(at + 32, 7).be32(at + 36, 16).be64(at + 40, 1 << 33).be64(at + 48, SIZE).put(at + 56, b"1name");
    fixture.be64(7 * CLUSTER as usize, 8 * CLUSTER).be64(8 * CLUSTER as usize + 8, DATA);
    let machine = Machine::new();
    let mut image = open(&machine, Disk::from_bytes(&fixture.bytes));
    let shown = image.describe().expect("it describes itself").snapshots;
    assert_eq!((shown[0].id.as_slice(), shown[0].name.as_slice()), (&b"1"[..], &b"name"[..]));
    assert_eq!((shown[0].vm_state_size, shown[0].date_sec, shown[0].icount), (1 << 33, 1_600_000_000, None));
    assert!(matches!(image.extent(0, u64::MAX).expect("sound").place, Place::Data { .. }));
    let wanted = |text: &[u8]| SnapshotSelector::IdOrName(text.to_vec());
    let error = image.select_snapshot(&wanted(b"nosuch")).expect_err("there is none");
    assert_eq!(error.message, "Failed to load snapshot: Can't find snapshot");
    image.select_snapshot(&wanted(b"name")).expect("there is one");
    let hole = image.extent(0, u64::MAX).expect("sound");
    assert_eq!((hole.place, hole.len), (Place::Unallocated, CLUSTER));
    assert!(matches!(image.extent(CLUSTER, u64::MAX).expect("sound").place, Place::Data { .. }));
}

#[test]
fn holes_of_a_large_disk_are_few_extents() {
    const BIG: u64 = 1 << 40;
    let mut fixture = Fixture::new();
    fixture.be64(field::SIZE, BIG).be32(field::L1_SIZE, 2048);
    // The last cluster only.
    fixture.be64(L1 as usize + 2047 * 8, L2 | COPIED).be64(L2 as usize + 8191 * 8, DATA | COPIED);
    let found = places(&fixture);
    assert_eq!(found.len(), 3);
    assert_eq!(found[2], (BIG - CLUSTER, CLUSTER, data(DATA)));
}

#[test]
fn small_clusters_have_many_tables() {
    const SMALL: u64 = 512;
    let (l1, l2, first) = (0x1000, 0x2000, 0x10000);
    let mut fixture = Fixture::new();
    // 64 entries a table: every other cluster is there, so nothing is merged.
    fixture.be32(field::CLUSTER_BITS, 9).be64(field::SIZE, 1 << 20).be32(field::L1_SIZE, 32);
    fixture.be64(field::L1_OFFSET, l1).be64(field::REFCOUNT_OFFSET, 0x200);
    for table in 0..32 {
        let at = l2 + table * SMALL;
        fixture.be64((l1 + table * 8) as usize, at | COPIED);
        for i in (0..64).step_by(2) {
            fixture.be64((at + i * 8) as usize, (first + (table * 64 + i) * SMALL) | COPIED);
        }
    }
    let found = places(&fixture);
    assert_eq!(found.len(), 2048);
    for (i, (at, len, place)) in found.iter().enumerate() {
        let expected = if i % 2 == 0 { data(first + i as u64 * SMALL) } else { Place::Unallocated };
        assert_eq!((*at, *len, *place), (i as u64 * SMALL, SMALL, expected));
    }
}
