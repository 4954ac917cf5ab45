//! Folders of devices: what lies there is the machine's, and no image's.

use std::os::unix::fs::MetadataExt;

use rustix::fd::AsFd;

/// Magic numbers (statfs(2)) of the file systems that devtmpfs is one of.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// Whether the folder is on devtmpfs, or on what stands for it at /dev (in a container).
pub fn holds_devices(folder: impl AsFd) -> bool {
    let in_memory = rustix::fs::fstatfs(&folder).is_ok_and(|fs| IN_MEMORY.contains(&fs.f_type));
    let Some(device) = rustix::fs::fstat(&folder).ok().map(|stat| stat.st_dev).filter(|_| in_memory) else {
        return false;
    };
    let on = |path: &str| std::fs::metadata(path).ok().map(|meta| meta.dev());
    if on("/dev") == Some(device) && on("/") != Some(device) {
        return true;
    }
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    crate::proc::read("/proc/self/mountinfo")
        .is_ok_and(|mounts| is_devtmpfs(&String::from_utf8_lossy(&mounts), &number))
}

/// Whether proc_pid_mountinfo(5) has `number` as that of a devtmpfs.
fn is_devtmpfs(mounts: &str, number: &str) -> bool {
    mounts.lines().any(|line| {
        let (mount, kind) = line.split_once(" - ").unwrap_or((line, ""));
        mount.split(' ').nth(2) == Some(number) && kind.split(' ').next() == Some("devtmpfs")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_devtmpfs_of_that_number_is_one() {
        let mounts = "22 1 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw\n23 1 0:6 /x /mnt rw - tmpfs tmpfs rw\n";
        assert!(is_devtmpfs(mounts, "0:5"));
        assert!(!is_devtmpfs(mounts, "0:6") && !is_devtmpfs(mounts, "0:55") && !is_devtmpfs("", "0:5"));
    }

    #[test]
    fn the_folder_of_devices_is_known_and_others_are_not() {
        let open = |path: &str| std::fs::File::open(path).expect("every Linux has it");
        assert!(holds_devices(open("/dev")));
        assert!(!holds_devices(open("/")) && !holds_devices(open("/proc")));
        assert!(!holds_devices(open(&std::env::temp_dir().to_string_lossy())));
    }
}
