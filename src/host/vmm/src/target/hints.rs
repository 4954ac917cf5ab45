//! How a file system is to hold a new file: set while it is empty, before the guest has anything in hand.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::fs::IFlags;

/// What qemu-img asks XFS for where nothing is said, in bytes.
const HINT: u32 = 1 << 20;
/// `struct fsxattr` (linux/fs.h): how it is read and written, and that its hint counts.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
const FS_XFLAG_EXTSIZE: u32 = 0x0000_0800;

/// `struct fsxattr`: flags, extent size in bytes, and five numbers that are of no concern here.
type Fsxattr = [u32; 7];

/// What the user said of how the target's file is to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// btrfs writes its blocks where they are.
    pub no_cow: bool,
    /// XFS allocates so many bytes at once; 0: as it likes. `None`: nothing is said.
    pub extent_size_hint: Option<u32>,
}

impl Hints {
    /// Gives them to an empty file, where its file system has them.
    ///
    /// # Errors
    /// The hint was asked for and cannot be had: the kernel's.
    pub fn apply(self, file: &File) -> io::Result<()> {
        if self.no_cow {
            // Other file systems know no such thing.
            let _ = rustix::fs::ioctl_getflags(file)
                .and_then(|flags| rustix::fs::ioctl_setflags(file, flags | IFlags::NOCOW));
        }
        let set = read(file).and_then(|mut attributes| {
            attributes[0] |= FS_XFLAG_EXTSIZE;
            attributes[1] = self.extent_size_hint.unwrap_or(HINT);
            // SAFETY: the kernel reads the structure, which has the length that the number of the call says.
            let done = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, attributes.as_ptr()) };
            if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
        if self.extent_size_hint.is_some_and(|hint| hint > 0) { set } else { Ok(()) }
    }
}

/// The hint of a file, in bytes; 0: none.
#[must_use]
pub fn extent_size_hint(file: &File) -> u32 {
    read(file).map_or(0, |attributes| attributes[1])
}

fn read(file: &File) -> io::Result<Fsxattr> {
    let mut attributes = Fsxattr::default();
    // SAFETY: the kernel fills the structure, which has the length that the number of the call says.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, attributes.as_mut_ptr()) };
    if done == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}
