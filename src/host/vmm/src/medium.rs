//! Whether two open files are the same disk under two names. A lock tells where a file is opened twice; nothing does of a
//! loop device and its file, or of a disk and its partition.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use crate::device::{Device, Mode};
use crate::policy::BLOCK;

type Identity = (u64, u64);

/// Indices of the first two devices of which one is written and the other, which is read, lies in it or holds it.
#[must_use]
pub fn written_and_read(devices: &[Device]) -> Option<(usize, usize)> {
    let is_read = |device: &Device| device.mode == Mode::Read;
    let lies_in: Vec<Vec<Identity>> = devices.iter().map(|device| lies_in(&device.file)).collect();
    let same = |one: usize, other: usize| lies_in[one].first().is_some_and(|own| lies_in[other].contains(own));
    let pairs = (0..devices.len()).flat_map(|one| (0..devices.len()).map(move |other| (one, other)));
    let mut pairs = pairs.filter(|(one, other)| !is_read(&devices[*one]) && is_read(&devices[*other]));
    pairs.find(|(one, other)| same(*one, *other) || same(*other, *one))
}

/// The file, and what it is a part of: a partition's disk, a loop device's file.
fn lies_in(file: &File) -> Vec<Identity> {
    let Ok(meta) = file.metadata() else { return Vec::new() };
    if !meta.file_type().is_block_device() {
        return vec![(meta.dev(), meta.ino())];
    }
    let mut all = vec![(BLOCK, meta.rdev())];
    // /sys/dev/block: sysfs's own name of each block device; a partition's folder is in its disk's.
    let number = |rdev: u64| (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let (major, minor) = number(meta.rdev());
    let mut device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if device.join("partition").exists() {
        device.push("..");
        let whole = std::fs::read_to_string(device.join("dev")).ok();
        let whole = whole.as_deref().and_then(|text| text.trim().split_once(':'));
        if let Some((Ok(major), Ok(minor))) = whole.map(|(major, minor)| (major.parse(), minor.parse())) {
            all.push((BLOCK, rustix::fs::makedev(major, minor)));
        }
    }
    all.extend(of_loop_device(file));
    all
}

/// The file behind a loop device or a partition of one. (Its name says nothing: it may have another by now.)
fn of_loop_device(file: &File) -> Option<Identity> {
    const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
    /// `struct loop_info64` (linux/loop.h): 232 bytes, which begin with number of the file system, of the file, and, of a
    /// block device, its own.
    type Status = [u64; 29];
    let mut status = Status::default();
    // SAFETY: the descriptor is open, and the structure has the length of the one that this request fills.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_GET_STATUS64, status.as_mut_ptr()) } == 0;
    let [system, inode, device, ..] = status;
    // The kernel packs the numbers in its own way (new_encode_dev); a descriptor's metadata have the C library's.
    let unpacked = |packed: u64| {
        let (major, minor) = ((packed >> 8) & 0xfff, (packed & 0xff) | ((packed >> 12) & 0xfff00));
        rustix::fs::makedev(major as u32, minor as u32)
    };
    done.then(|| if device == 0 { (unpacked(system), inode) } else { (BLOCK, unpacked(device)) })
}
