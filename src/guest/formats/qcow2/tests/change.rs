//! An image that is changed is the image that is read.

use instar_format_qcow2::Qcow2;
use instar_image::options::Options;
use instar_image::sealed::{Placed, submit};
use instar_image::write::Piece;
use instar_image::{
    Changes, CreateContext, FileOffset, Format, Image, NewSize, OpenContext, Place, Preallocation, Purpose, Spot,
    Version,
};
use instar_sim::{Disk, Machine};

const CLUSTER: u64 = 65536;

/// A new image of 10 MiB.
fn made() -> Disk {
    let machine = Machine::new();
    let device = machine.add_writable([]);
    let options = Options::default();
    let creator = Qcow2.creator().expect("it can be made");
    let cx = CreateContext {
        machine: &machine,
        device,
        name: b"x",
        parent: None,
        data_device: None,
        size: 10 << 20,
        options: &options,
        backing: None,
        compressed: false,
        version: Version::default(),
    };
    creator.create(cx).and_then(|writer| writer.finish()).expect("it is made");
    machine.disk(device)
}

/// The image on `disk`, about to be changed.
fn begun(machine: &Machine, disk: Disk) -> Box<dyn Image + '_> {
    let device = machine.add_writable_disk(disk);
    let cx = OpenContext::alone(machine, device, b"x", Version::default(), Purpose::Write(machine));
    let mut image = Qcow2.open(cx).expect("it opens");
    image.begin(&Changes { content: true, ..Changes::default() }).expect("it can be changed").expect("it may be");
    image
}

fn place(image: &dyn Image, machine: &Machine, at: u64, bytes: &[u8]) {
    let mut steps: Vec<Placed<'_>> = Vec::new();
    image.editor().expect("begun").place(at, Piece::Data(bytes), &mut steps).expect("it has a place");
    submit(machine, steps, None).expect("it is written");
}

#[test]
fn what_was_placed_shows_before_and_after_it_is_settled() {
    let machine = Machine::new();
    let image = begun(&machine, made());
    let editor = image.editor().expect("begun");
    assert_eq!(image.extent(CLUSTER, u64::MAX).expect("in range").place, Place::Unallocated);
    assert_eq!(editor.own(CLUSTER, 10).expect("it can be told"), None);
    place(image.as_ref(), &machine, CLUSTER, &[7; CLUSTER as usize]);
    for settled in [false, true] {
        if settled {
            editor.settle().expect("it is written");
        }
        let extent = image.extent(CLUSTER + 5, u64::MAX).expect("in range");
        let Place::Data { device, offset } = extent.place else { panic!("{extent:?}") };
        assert_eq!(extent.len, CLUSTER - 5);
        assert_eq!(editor.own(CLUSTER + 5, 10), Ok(Some(Spot { device, offset, len: 10 })));
        assert_eq!(machine.disk(device).to_bytes()[offset.get() as usize], 7);
    }
}

#[test]
fn a_file_that_is_enormous_is_changed_like_any_other() {
    let machine = Machine::new();
    let mut disk = made();
    // As XFS has files; looking at each cluster of it would take days.
    disk.set_len(i64::MAX as u64 / CLUSTER * CLUSTER);
    let image = begun(&machine, disk);
    place(image.as_ref(), &machine, 0, &[7; CLUSTER as usize]);
    image.editor().expect("begun").finish().expect("it is written");
    assert!(matches!(image.extent(0, CLUSTER).expect("in range").place, Place::Data { .. }));
}

#[test]
fn what_was_opened_to_be_read_has_no_editor() {
    let machine = Machine::new();
    let device = machine.add_disk(made());
    let cx = OpenContext::alone(&machine, device, b"x", Version::default(), Purpose::Read);
    let mut image = Qcow2.open(cx).expect("it opens");
    assert!(image.begin(&Changes::default()).expect("the format can be changed").is_err());
    assert!(image.editor().is_none());
}

/// The image on `disk` with one cluster of data, and `entry` for the second one; where its tables are: L1, L2, refcount table,
/// refcount block.
fn with_entry(entry: impl Fn([u64; 4]) -> u64) -> (Disk, [u64; 4]) {
    let machine = Machine::new();
    let image = begun(&machine, made());
    place(image.as_ref(), &machine, 0, &[7; CLUSTER as usize]);
    image.editor().expect("begun").finish().expect("it is written");
    drop(image);
    let mut disk = machine.disk(machine_device());
    let at = |disk: &Disk, offset: u64| {
        let mut bytes = [0; 8];
        disk.read(FileOffset::new(offset), &mut bytes);
        u64::from_be_bytes(bytes) & 0x00ff_ffff_ffff_fe00
    };
    let (l1, refcounts) = (at(&disk, 40), at(&disk, 48));
    let tables = [l1, at(&disk, l1), refcounts, at(&disk, refcounts)];
    disk.write(FileOffset::new(tables[1] + 8), &entry(tables).to_be_bytes());
    (disk, tables)
}

const fn machine_device() -> instar_image::DeviceId {
    instar_image::DeviceId(0)
}

#[test]
fn an_entry_that_refers_to_a_table_has_no_data_written_there() {
    for table in 0..4 {
        let (disk, _) = with_entry(|tables| tables[table] | 1 << 63);
        let machine = Machine::new();
        let image = begun(&machine, disk.clone());
        let editor = image.editor().expect("begun");
        assert!(editor.own(CLUSTER, 10).is_err(), "{table}");
        let mut steps = Vec::new();
        assert!(editor.place(CLUSTER, Piece::Data(&[1; CLUSTER as usize]), &mut steps).is_err(), "{table}");
        assert_eq!(machine.disk(machine_device()).to_bytes(), disk.to_bytes());
    }
}

#[test]
fn what_an_entry_wrongly_refers_to_is_not_given_up() {
    // The tables, the header by an offset that is none, and by compressed bytes.
    let wrong: [fn([u64; 4]) -> u64; 6] = [|t| t[0], |t| t[1], |t| t[2], |t| t[3], |_| 0x200, |_| 1 << 62 | 1];
    for (number, entry) in wrong.into_iter().enumerate() {
        let (disk, tables) = with_entry(entry);
        let machine = Machine::new();
        let device = machine.add_writable_disk(disk);
        let cx = OpenContext::alone(&machine, device, b"x", Version::default(), Purpose::Write(&machine));
        let image = Qcow2.open(cx).expect("it opens");
        let to = NewSize { size: CLUSTER, at_least: false, preallocation: Preallocation::Off, backing_len: None };
        image.resizing().expect("it can be").resize(&to).expect("it gets smaller");
        let after = machine.disk(machine_device());
        for offset in tables.into_iter().chain([0]) {
            let mut bytes = vec![0; CLUSTER as usize];
            after.read(FileOffset::new(offset), &mut bytes);
            assert!(bytes.iter().any(|byte| *byte != 0), "{number}: {offset:#x} is gone");
        }
    }
}
