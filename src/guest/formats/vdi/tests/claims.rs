//! Claims of more than the file has.

use instar_format_vdi::Vdi;
use instar_image::{Format, OpenContext, Purpose, Version};
use instar_sim::{Disk, Machine};

/// A header as the format's description has it, and `entries` of the map, of which it claims `blocks`.
fn image(blocks: u32, entries: usize) -> Vec<u8> {
    let mut image = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(64, &0xbeda_107f_u32.to_le_bytes());
    put(68, &0x0001_0001_u32.to_le_bytes());
    put(72, &400_u32.to_le_bytes());
    put(76, &1_u32.to_le_bytes());
    put(340, &512_u32.to_le_bytes());
    put(344, &512_u32.to_le_bytes());
    put(360, &512_u32.to_le_bytes());
    put(368, &(u64::from(blocks) << 20).to_le_bytes());
    put(376, &(1_u32 << 20).to_le_bytes());
    put(384, &blocks.to_le_bytes());
    image.resize(512 + 4 * entries, 0);
    image
}

fn opens(bytes: Vec<u8>) -> bool {
    opens_disk(Disk::from_bytes(&bytes))
}

fn opens_disk(disk: Disk) -> bool {
    opens_to(disk, true)
}

/// `data`: what it holds is going to be read.
fn opens_to(disk: Disk, data: bool) -> bool {
    let machine = Machine::new();
    let device = machine.add_disk(disk);
    let cx = OpenContext::alone(
        &machine,
        device,
        b"disk.img",
        Version::default(),
        if data { Purpose::Check } else { Purpose::Describe },
    );
    Vdi.open(cx).is_ok()
}

#[test]
fn a_file_that_was_cut_lacks_some_of_its_map() {
    assert!(opens(image(1 << 13, 0)) && opens(image(1 << 14, 1 << 13)) && opens(image(1 << 20, 1 << 20)));
}

#[test]
fn a_map_that_is_only_claimed_is_refused() {
    // It was read as zeroes: `check` told of half a billion blocks at one place, for minutes.
    assert!(!opens(image(0x1fff_ff80, 0)) && !opens(image((1 << 14) + 1, 1 << 13)));
}

#[test]
fn what_it_claims_is_shown_to_who_reads_none_of_it() {
    assert!(opens_to(Disk::from_bytes(&image(0x1fff_ff80, 0)), false));
}

#[test]
fn a_map_in_a_hole_is_refused() {
    // A map that was written is never a hole: an entry of zero is the first block, and there is one of those.
    let with_hole = |blocks: u32, entries: usize| {
        let mut disk = Disk::from_bytes(&image(blocks, entries));
        disk.set_len(512 + 4 * u64::from(blocks));
        opens_disk(disk)
    };
    assert!(!with_hole(1 << 26, 0) && !with_hole(1 << 20, 1 << 13));
    assert!(with_hole(1 << 13, 0) && with_hole((1 << 13) + 100, 1 << 12));
}
