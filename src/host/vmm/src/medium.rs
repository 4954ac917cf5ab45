//! Whether two files are the same disk under two names. A lock tells where a file is opened twice; nothing does of a loop
//! device and its file, or of a disk and its partition.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::device::{Device, Mode};
use crate::policy::BLOCK;

type Identity = (u64, u64);

/// Most files and devices that one is looked for in.
const MEDIA_MAX: usize = 64;

/// A file or device, and all that it lies in: a partition's disk, a loop device's file, the disks of a volume. With each,
/// whether it is all of that (a part of it has other bytes than another part).
struct Medium(Vec<(Identity, bool)>);

impl Medium {
    fn of(file: &File) -> Self {
        let Ok(meta) = file.metadata() else { return Self(Vec::new()) };
        if meta.file_type().is_block_device() {
            return Self::of_device(meta.rdev(), Some(file));
        }
        Self(vec![((meta.dev(), meta.ino()), true)])
    }

    fn of_device(number: u64, file: Option<&File>) -> Self {
        let mut all = vec![((BLOCK, number), true)];
        let mut at = 0;
        while let Some(((system, number), is_whole)) = all.get(at).copied().filter(|_| all.len() < MEDIA_MAX) {
            if system == BLOCK {
                let above = above(number, file.filter(|_| at == 0));
                all.extend(above.into_iter().map(|(medium, whole)| (medium, is_whole && whole)));
            }
            at += 1;
        }
        Self(all)
    }

    /// Whether they have bytes in common. Two parts of the same disk have none.
    fn overlaps(&self, other: &Self) -> bool {
        let same = |(one, whole): &(Identity, bool)| other.0.iter().any(|(two, too)| one == two && (*whole || *too));
        self.0.iter().any(same)
    }
}

/// Indices of the first two devices of which one is written and the other, which is read, is the same disk.
#[must_use]
pub fn written_and_read(devices: &[Device]) -> Option<(usize, usize)> {
    let media = |wanted: fn(&Device) -> bool| -> Vec<(usize, Medium)> {
        let found = devices.iter().enumerate().filter(|(_, device)| wanted(device));
        found.map(|(index, device)| (index, Medium::of(&device.file))).collect()
    };
    let changed = media(is_changed);
    let read = if changed.is_empty() { Vec::new() } else { media(|device| device.mode == Mode::Read) };
    let mut pairs = changed.iter().flat_map(|one| read.iter().map(move |other| (one, other)));
    let found = pairs.find(|((_, written), (_, read))| written.overlaps(read));
    found.map(|((one, _), (other, _))| (*one, *other))
}

/// It is written, and was there before. Nothing lies in what is made only now, and that lies in nothing.
fn is_changed(device: &Device) -> bool {
    device.mode != Mode::Read && (!device.fresh || device.old.is_some())
}

/// What else must not be read, as it would be written over, by the identity that the open policy knows it by. `devices`:
/// an image can name block devices, too.
pub fn same_as_written(all: &[Device], devices: bool) -> BTreeSet<Identity> {
    let written: Vec<Medium> =
        all.iter().filter(|device| is_changed(device)).map(|device| Medium::of(&device.file)).collect();
    let below = written.iter().flat_map(|medium| medium.0.iter().map(|(identity, _)| *identity));
    let mut same: BTreeSet<Identity> = below.collect();
    if devices && !written.is_empty() {
        for number in
            fs::read_dir("/sys/dev/block").into_iter().flatten().filter_map(|entry| number(&entry.ok()?.path()))
        {
            let medium = Medium::of_device(number, None);
            if written.iter().any(|written| written.overlaps(&medium)) {
                same.insert((BLOCK, number));
            }
        }
    }
    same
}

/// What a block device lies in, and whether it is all of that, as sysfs has it (Documentation/ABI/stable/sysfs-block).
fn above(number: u64, file: Option<&File>) -> Vec<(Identity, bool)> {
    let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", rustix::fs::major(number), rustix::fs::minor(number)));
    if folder.join("partition").exists() {
        return number_in(&folder.join("../dev")).map(|disk| ((BLOCK, disk), false)).into_iter().collect();
    }
    if folder.join("loop").is_dir() {
        return file.and_then(of_loop_device).or_else(|| of_loop_device_in(&folder.join("loop"))).into_iter().collect();
    }
    let slaves = fs::read_dir(folder.join("slaves")).into_iter().flatten();
    slaves.filter_map(|slave| Some(((BLOCK, number_in(&slave.ok()?.path().join("dev"))?), false))).collect()
}

/// The number of a device: of the folder's name, or what a file says.
fn number(path: &Path) -> Option<u64> {
    of_text(path.file_name()?.to_str()?)
}

fn number_in(path: &Path) -> Option<u64> {
    of_text(fs::read_to_string(path).ok()?.trim())
}

fn of_text(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The file behind a loop device, by the name that it had.
fn of_loop_device_in(folder: &Path) -> Option<(Identity, bool)> {
    let read = |name: &str| fs::read_to_string(folder.join(name));
    let name = read("backing_file").ok()?;
    let meta = fs::metadata(name.trim_end_matches('\n')).ok()?;
    let whole = ["offset", "sizelimit"].iter().all(|name| read(name).is_ok_and(|text| text.trim() == "0"));
    let block = meta.file_type().is_block_device();
    Some((if block { (BLOCK, meta.rdev()) } else { (meta.dev(), meta.ino()) }, whole))
}

/// The same of an open loop device, whatever became of that name.
fn of_loop_device(file: &File) -> Option<(Identity, bool)> {
    const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
    /// `struct loop_info64` (linux/loop.h): 232 bytes, which begin with the numbers of the file system, of the file and, of
    /// a block device, its own; then where in it the device begins, and its length if that is limited, in bytes.
    type Status = [u64; 29];
    let mut status = Status::default();
    // SAFETY: the descriptor is open, and the structure has the length of the one that this request fills.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_GET_STATUS64, status.as_mut_ptr()) } == 0;
    let [system, inode, device, offset, limit, ..] = status;
    // The kernel packs the numbers in its own way (new_encode_dev); a descriptor's metadata have the C library's.
    let unpacked = |packed: u64| {
        let (major, minor) = ((packed >> 8) & 0xfff, (packed & 0xff) | ((packed >> 12) & 0xfff00));
        rustix::fs::makedev(major as u32, minor as u32)
    };
    let identity = if device == 0 { (unpacked(system), inode) } else { (BLOCK, unpacked(device)) };
    done.then_some((identity, offset == 0 && limit == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_same_disk_have_nothing_in_common() {
        let (file, disk, one, two) = ((1, 7), (BLOCK, 100), (BLOCK, 101), (BLOCK, 102));
        let medium = |all: &[(Identity, bool)]| Medium(all.to_vec());
        let disk_in_file = medium(&[(disk, true), (file, true)]);
        let first = medium(&[(one, true), (disk, false), (file, false)]);
        let second = medium(&[(two, true), (disk, false), (file, false)]);
        let over_first = medium(&[((BLOCK, 200), true), (one, true), (disk, false), (file, false)]);
        let twin = medium(&[((BLOCK, 201), true), (file, true)]);
        let in_file = medium(&[(file, true)]);
        assert!(!first.overlaps(&second) && !second.overlaps(&over_first));
        for same in [&disk_in_file, &twin, &in_file, &over_first] {
            assert!(first.overlaps(same) && same.overlaps(&first));
        }
        assert!(disk_in_file.overlaps(&twin) && second.overlaps(&twin));
    }
}
