//! Claims of more than the file has.

use instar_format_parallels::Parallels;
use instar_image::check::Quiet;
use instar_image::{Changes, CheckContext, Format, OpenContext, Piece, Purpose, Version};
use instar_sim::Machine;

/// A header as the format's description has it, which claims a map of `entries` for so many clusters, and nothing else.
/// Returns how many errors are found; `None`: the image is not opened.
fn errors(entries: u32) -> Option<u64> {
    let mut image = b"WithoutFreeSpace".to_vec();
    for number in [2_u32, 16, 1, 64, entries] {
        image.extend(number.to_le_bytes());
    }
    image.extend((u64::from(entries) * 64).to_le_bytes());
    image.resize(64, 0);
    let machine = Machine::new();
    let device = machine.add(image);
    let cx = OpenContext::alone(&machine, device, b"disk.img", Version::default(), Purpose::Check);
    let image = Parallels.open(cx).ok()?;
    let report = image.check(CheckContext { machine: &machine, findings: &mut Quiet })?;
    report.ok().map(|report| report.corruptions)
}

#[test]
fn a_file_that_was_cut_lacks_some_of_its_map() {
    // No cluster at all fits into the file: each entry is an error.
    assert_eq!(errors(1000), Some(1000));
    assert!(errors(1 << 13).is_some());
}

#[test]
fn a_map_that_is_only_claimed_is_refused() {
    // It was read as zeroes, three times, for seconds.
    assert_eq!(errors((1 << 13) + 1), None);
    assert_eq!(errors((1 << 29) - 1), None);
}

#[test]
fn a_cluster_outside_of_the_file_is_not_written_to() {
    let mut image = b"WithoutFreeSpace".to_vec();
    for number in [2_u32, 16, 1, 64, 4] {
        image.extend(number.to_le_bytes());
    }
    image.extend((4u64 * 64).to_le_bytes());
    image.resize(64, 0);
    // One entry leads far behind the file's end.
    image.extend(0x7fff_ffff_u32.to_le_bytes());
    image.resize(64 << 10, 0);
    let machine = Machine::new();
    let device = machine.add_writable(&image);
    let cx = OpenContext::alone(&machine, device, b"disk.img", Version::default(), Purpose::Write(&machine));
    let mut opened = Parallels.open(cx).expect("it opens");
    opened.begin(&Changes { content: true, ..Changes::default() }).expect("it can be changed").expect("it is sound");
    let editor = opened.editor().expect("begun");
    assert!(editor.own(0, 512).is_err());
    assert!(editor.place(0, Piece::Data(&[1; 4096]), &mut Vec::new()).is_err());
    assert_eq!(machine.disk(device).len(), image.len() as u64);
}
