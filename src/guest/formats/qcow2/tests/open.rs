//! What is refused, in which words. The words are those of qemu-img 10.0.2 on the same bytes.

mod fixture;

use fixture::{CLUSTER, Fixture, L1};
use instar_format_qcow2::Qcow2;
use instar_format_qcow2::layout::{extension, field};
use instar_image::{Description, Format, Image, OpenContext, Purpose, Value, Version};
use instar_sim::Machine;

fn with<T>(fixture: &Fixture, version: Version, look: impl FnOnce(Result<&dyn Image, String>) -> T) -> T {
    let machine = Machine::new();
    let device = machine.add(&fixture.bytes);
    let cx = OpenContext::alone(&machine, device, b"x", version, Purpose::Describe);
    match Qcow2.open(cx) {
        Ok(image) => look(Ok(image.as_ref())),
        Err(error) => look(Err(error.message)),
    }
}

fn error(spoil: impl FnOnce(&mut Fixture)) -> String {
    let mut fixture = Fixture::new();
    spoil(&mut fixture);
    with(&fixture, Version::default(), |r| r.map(|_| ()).expect_err("it is broken"))
}

fn described(fixture: &Fixture) -> (u64, Description) {
    with(fixture, Version::default(), |r| {
        let image = r.expect("it opens");
        (image.virtual_size(), image.describe().expect("it describes itself"))
    })
}

#[test]
fn a_sound_image_opens() {
    let (size, description) = described(&Fixture::new());
    assert_eq!(size, 10 << 20);
    assert_eq!(description.cluster_size, Some(CLUSTER));
    let specific = description.specific.expect("qcow2 has some");
    assert_eq!(specific.text("compat"), Some("1.1"));
    assert_eq!(specific.u64("refcount-bits"), Some(16));
    assert_eq!(specific.get("corrupt"), Some(&Value::Bool(false)));
}

#[test]
fn header_fields() {
    let huge = (1u64 << 63) - (1 << 30);
    let cases: &[(&str, usize, u64, usize)] = &[
        ("Image is not in qcow2 format", 0, 0x5146_49fa, 4),
        ("Unsupported qcow2 version 1", field::VERSION, 1, 4),
        ("Unsupported qcow2 version 4", field::VERSION, 4, 4),
        ("Unsupported cluster size: 2^8", field::CLUSTER_BITS, 8, 4),
        ("Unsupported cluster size: 2^22", field::CLUSTER_BITS, 22, 4),
        ("Unsupported cluster size: 2^2147483648", field::CLUSTER_BITS, 1 << 31, 4),
        ("qcow2 header too short", field::HEADER_LENGTH, 103, 4),
        ("qcow2 header exceeds cluster size", field::HEADER_LENGTH, 65537, 4),
        ("Invalid backing file offset", field::BACKING_OFFSET, 65537, 8),
        ("Reference count entry width too large; may not exceed 64 bits", field::REFCOUNT_ORDER, 7, 4),
        ("Unsupported encryption method 3", field::CRYPT_METHOD, 3, 4),
        ("Missing CRYPTO header for crypt method 2", field::CRYPT_METHOD, 2, 4),
        ("L1 table is too small", field::L1_SIZE, 0, 4),
        ("Active L1 table too large", field::L1_SIZE, 4_194_305, 4),
        ("Active L1 table offset invalid", field::L1_OFFSET, L1 + 512, 8),
        ("Active L1 table offset invalid", field::L1_OFFSET, 0u64.wrapping_sub(CLUSTER), 8),
        ("Could not read L1 table: Input/output error", field::L1_OFFSET, huge, 8),
        ("Image does not contain a reference count table", field::REFCOUNT_CLUSTERS, 0, 4),
        ("Reference count table too large", field::REFCOUNT_CLUSTERS, 129, 4),
        ("Reference count table offset invalid", field::REFCOUNT_OFFSET, CLUSTER + 512, 8),
        ("Could not initialize refcount handling: Input/output error", field::REFCOUNT_OFFSET, huge, 8),
        ("Snapshot table too large", field::SNAPSHOT_COUNT, 65537, 4),
        ("Snapshot table offset invalid", field::SNAPSHOT_OFFSET, 8, 8),
        ("L1 table is too small", field::SIZE, (512 << 20) + 1, 8),
        ("Image is too big", field::SIZE, 1 << 62, 8),
        ("Could not refresh total sector count: File too large", field::SIZE, u64::MAX, 8),
        ("Unsupported qcow2 feature(s): Unknown incompatible feature: 20", field::INCOMPATIBLE, 32, 8),
        ("qcow2: Compression type incompatible feature bit must not be set", field::INCOMPATIBLE, 8, 8),
    ];
    for (text, at, number, len) in cases {
        let bytes = number.to_be_bytes();
        let found = error(|f| {
            f.put(*at, &bytes[8 - len..]);
        });
        assert_eq!(&found, text, "field at {at}");
    }
}

#[test]
fn a_file_cut_short_is_no_panic() {
    let whole = Fixture::new().bytes;
    for len in (0..128).chain([4095, 4096, 65535]) {
        with(&Fixture { bytes: whole[..len].to_vec() }, Version::default(), |r| assert_eq!(r.is_ok(), len >= 104));
    }
}

#[test]
fn compression_types() {
    let of = |kind: u8, flag: u64| {
        error(|f| {
            f.be32(field::HEADER_LENGTH, 112).put(104, &[kind]).be64(field::INCOMPATIBLE, flag);
        })
    };
    assert_eq!(of(2, 8), "qcow2: unknown compression type: 2");
    assert_eq!(of(1, 0), "qcow2: Compression type incompatible feature bit must be set");
    let mut zstd = Fixture::new();
    zstd.be32(field::HEADER_LENGTH, 112).put(104, &[1]).be64(field::INCOMPATIBLE, 8);
    assert_eq!(
        described(&zstd).1.specific.and_then(|s| s.text("compression-type").map(String::from)),
        Some("zstd".into())
    );
    with(&zstd, Version::V5_2, |r| {
        assert_eq!(r.err().as_deref(), Some("qcow2: unknown compression type: 1"));
    });
}

#[test]
fn unknown_features_are_refused_by_the_names_that_the_image_gives_them() {
    let name = |kind: u8, bit: u8, name: &str| {
        let mut entry = vec![kind, bit];
        entry.extend_from_slice(name.as_bytes());
        entry.resize(48, 0);
        entry
    };
    let table = [name(0, 5, "fancy thing"), name(0, 63, "last one"), name(1, 6, "a compatible one")].concat();
    let found = error(|f| {
        f.be64(field::INCOMPATIBLE, 32 | 64 | 1 << 63).extensions(&[(extension::FEATURE_NAMES, &table)]);
    });
    assert_eq!(found, "Unsupported qcow2 feature(s): fancy thing, last one, Unknown incompatible feature: 40");
}

#[test]
fn extensions() {
    let of = |kind: u32, content: &[u8]| {
        error(|f| {
            f.extensions(&[(kind, content)]);
        })
    };
    assert_eq!(of(extension::BACKING_FORMAT, &[b'q'; 16]), "ERROR: ext_backing_format: len=16 too large (>=16)");
    assert_eq!(
        of(extension::CRYPTO_HEADER, &[0; 16]),
        "CRYPTO header extension only expected with LUKS encryption method"
    );
    assert_eq!(of(extension::BITMAPS, &[0; 23]), "bitmaps_ext: Invalid extension length");
    let found = error(|f| {
        f.be32(104, 0x1234_5678).be32(108, u32::MAX);
    });
    assert_eq!(found, "Header extension too large");
}

#[test]
fn backing_files() {
    let mut fixture = Fixture::new();
    fixture.extensions(&[(extension::BACKING_FORMAT, b"raw")]);
    fixture.be64(field::BACKING_OFFSET, 512).be32(field::BACKING_SIZE, 7).put(512, b"base\0xx");
    with(&fixture, Version::default(), |r| {
        let backing = r.expect("it opens").backing().expect("it has one");
        assert_eq!((backing.name.as_slice(), backing.format.as_deref()), (&b"base"[..], Some("raw")));
    });
    let long = error(|f| {
        f.be64(field::BACKING_OFFSET, 512).be32(field::BACKING_SIZE, 1024);
    });
    assert_eq!(long, "Backing file name too long");
}

#[test]
fn encrypted_images_are_described_and_their_data_needs_a_key() {
    let mut fixture = Fixture::new();
    fixture.be32(field::CRYPT_METHOD, 1);
    let (_, description) = described(&fixture);
    assert!(description.encrypted);
    let encrypt = description.specific.and_then(|s| s.get("encrypt").cloned()).expect("it says how");
    assert_eq!(encrypt.text("format"), Some("aes"));
    let machine = Machine::new();
    let device = machine.add(&fixture.bytes);
    let cx = OpenContext {
        source: &machine,
        opener: Some(&machine),
        device,
        name: b"x",
        version: Version::default(),
        purpose: Purpose::Read,
        options: &[],
    };
    let error = Qcow2.open(cx).map(|_| ()).expect_err("it cannot be read");
    assert_eq!(error.message, "Parameter 'encrypt.key-secret' is required for cipher");
}

/// An image with a LUKS header in its fifth cluster: AES-256-XTS, one of its slots in use.
fn luks(mode: &[u8]) -> Fixture {
    const HEADER: u64 = 4 * CLUSTER;
    let mut fixture = Fixture::new();
    let place = [HEADER.to_be_bytes(), CLUSTER.to_be_bytes()].concat();
    fixture.be32(field::CRYPT_METHOD, 2).extensions(&[(extension::CRYPTO_HEADER, &place)]);
    let at = HEADER as usize;
    fixture.put(at, b"LUKS\xba\xbe\0\x01aes").put(at + 40, mode).put(at + 72, b"sha256");
    fixture.be32(at + 104, 4040).be32(at + 108, 64).be32(at + 164, 12121).put(at + 168, b"some-uuid");
    for i in 0..8 {
        let slot = at + 208 + 48 * i;
        fixture.be32(slot, if i == 0 { 0x00ac_71f3 } else { 0xdead }).be32(slot + 4, 48473);
        fixture.be32(slot + 40, 8 + 504 * i as u32).be32(slot + 44, 4000);
    }
    fixture.put(at + 592, &[0; 512]);
    fixture
}

#[test]
fn a_luks_header_is_described() {
    let (_, description) = described(&luks(b"xts-plain64"));
    let encrypt = description.specific.and_then(|s| s.get("encrypt").cloned()).expect("it says how");
    let expected = [
        ("format", "luks"),
        ("cipher-alg", "aes-256"),
        ("cipher-mode", "xts"),
        ("ivgen-alg", "plain64"),
        ("hash-alg", "sha256"),
        ("uuid", "some-uuid"),
    ];
    for (key, value) in expected {
        assert_eq!(encrypt.text(key), Some(value), "{key}");
    }
    assert_eq!((encrypt.u64("payload-offset"), encrypt.u64("master-key-iters")), (Some(2_068_480), Some(12121)));
    let slots = encrypt.list("slots");
    assert_eq!((slots.len(), slots[0].u64("iters"), slots[0].u64("key-offset")), (8, Some(48473), Some(4096)));
    assert!(!slots[1].flag("active") && slots[1].get("iters").is_none());
    with(&luks(b"xts"), Version::default(), |r| {
        assert_eq!(r.err().as_deref(), Some("Unexpected cipher mode string format 'xts'"));
    });
}

#[test]
fn snapshot_tables() {
    let with_extra = |len: u32| {
        error(|f| {
            f.be32(field::SNAPSHOT_COUNT, 1).be64(field::SNAPSHOT_OFFSET, 2 * CLUSTER);
            f.be32(2 * CLUSTER as usize + 36, len);
        })
    };
    let text = "Too much extra metadata in snapshot table entry 0\nYou can force-remove this extra metadata with \
                qemu-img check -r all";
    assert_eq!(with_extra(1025), text);
    assert_eq!(with_extra(u32::MAX), text);
    let far = error(|f| {
        f.be32(field::SNAPSHOT_COUNT, 1).be64(field::SNAPSHOT_OFFSET, (1 << 63) - 2 * CLUSTER);
    });
    assert_eq!(far, "Failed to read snapshot table: Input/output error");
    // Past the end of the file all entries are zeroes: the walk stays bounded.
    let mut many = Fixture::new();
    many.be32(field::SNAPSHOT_COUNT, 65536).be64(field::SNAPSHOT_OFFSET, 50 * CLUSTER);
    with(&many, Version::default(), |r| {
        let image = r.expect("it opens");
        assert!(image.describe().expect_err("too many to show").message.contains("65536 snapshots"));
    });
}

/// A bitmap directory of one entry, and the header extension that leads to it.
fn bitmap(granularity_bits: u8, flags: u32, autoclear: u64) -> Fixture {
    const DIRECTORY: u64 = 6 * CLUSTER;
    let mut fixture = Fixture::new();
    let mut extension_bytes = vec![0, 0, 0, 1, 0, 0, 0, 0];
    extension_bytes.extend_from_slice(&32u64.to_be_bytes());
    extension_bytes.extend_from_slice(&DIRECTORY.to_be_bytes());
    fixture.extensions(&[(extension::BITMAPS, &extension_bytes)]).be64(field::AUTOCLEAR, autoclear);
    let at = DIRECTORY as usize;
    fixture.be64(at, 5 * CLUSTER).be32(at + 8, 1).be32(at + 12, flags);
    fixture.put(at + 16, &[1, granularity_bits, 0, 2]).be32(at + 20, 0).put(at + 24, b"bm\0\0\0\0\0\0");
    fixture
}

#[test]
fn bitmaps() {
    let (_, description) = described(&bitmap(16, 2, 1));
    let specific = description.specific.expect("qcow2 has some");
    let [bitmap_info] = specific.list("bitmaps") else { panic!("one bitmap: {specific:?}") };
    assert_eq!(bitmap_info.text("name"), Some("bm"));
    assert_eq!(bitmap_info.u64("granularity"), Some(65536));
    assert_eq!(bitmap_info.list("flags"), [Value::from("auto")]);
    with(&bitmap(8, 2, 1), Version::default(), |r| {
        assert_eq!(r.err().as_deref(), Some("Bitmap 'bm' doesn't satisfy the constraints"));
    });
    with(&bitmap(16, 2, 0), Version::default(), |r| {
        let image = r.expect("stale bitmaps are not looked at");
        assert!(image.warnings()[0].starts_with("a program lacking bitmap support modified this file"));
    });
}

#[test]
fn no_spoilt_byte_makes_a_panic() {
    let mut sound = bitmap(16, 2, 1);
    sound.be64(field::BACKING_OFFSET, 0x200).be32(field::BACKING_SIZE, 9).put(0x200, b"base.file");
    sound.be32(field::SNAPSHOT_COUNT, 2).be64(field::SNAPSHOT_OFFSET, 2 * CLUSTER);
    sound.l2(&[fixture::DATA | fixture::COPIED, 1, fixture::COMPRESSED | fixture::DATA]);
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let areas = [(0u64, 160u64), (2 * CLUSTER, 100), (6 * CLUSTER, 32), (L1, 8)];
    for _ in 0..4000 {
        let mut fixture = sound.clone();
        for _ in 0..=random() % 4 {
            let (start, len) = areas[(random() % 4) as usize];
            let at = (start + random() % len) as usize;
            fixture.put(at, &[[0, 1, 0x7f, 0x80, 0xff, random() as u8][(random() % 6) as usize]]);
        }
        with(&fixture, Version::default(), |r| {
            let Ok(image) = r else { return };
            let _ = image.describe();
            let mut at = 0;
            for _ in 0..50 {
                let Ok(extent) = image.extent(at, u64::MAX) else { break };
                assert!(extent.at == at && extent.len > 0 && extent.end() <= image.virtual_size());
                at = extent.end();
                if at == image.virtual_size() {
                    break;
                }
            }
        });
    }
}
