//! An image that is changed is the image that is read.

use instar_format_qcow2::Qcow2;
use instar_image::options::Options;
use instar_image::sealed::{Placed, submit};
use instar_image::write::Piece;
use instar_image::{Changes, CreateContext, Format, Image, OpenContext, Place, Purpose, Spot, Version};
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
        assert_eq!(machine.disk(device).to_bytes()[offset as usize], 7);
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
