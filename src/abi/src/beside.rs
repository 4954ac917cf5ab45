//! Files beside a new image: extents that are files of their own. The guest says which one it wants by kind and number, never
//! by a name; what the name is, both halves know from here.

use alloc::format;
use alloc::vec::Vec;

use crate::ring::Beside;

/// Highest number of a file.
pub const NUMBER_MAX: u64 = 10_000;

impl Beside {
    /// There are files with that number.
    #[must_use]
    pub const fn has(self, number: u64) -> bool {
        match self {
            Self::Flat => number == 1,
            Self::SplitFlat | Self::SplitSparse => number >= 1 && number <= NUMBER_MAX,
        }
    }

    /// The name of file `number` beside the one called `image`, in the same folder: what tells them apart stands before
    /// the image's extension.
    #[must_use]
    pub fn name(self, image: &[u8], number: u64) -> Vec<u8> {
        let start = folder_len(image);
        let (folder, own) = image.split_at(start);
        let (stem, extension) = own.split_at(own.iter().rposition(|b| *b == b'.').unwrap_or(own.len()));
        let mark = match self {
            Self::Flat => "-flat".into(),
            Self::SplitFlat => format!("-f{number:03}"),
            Self::SplitSparse => format!("-s{number:03}"),
        };
        [folder, stem, mark.as_bytes(), extension].concat()
    }
}

/// Bytes of a path up to the file's own name. Another colon than that of `file:` is a part of it.
#[must_use]
pub fn folder_len(path: &[u8]) -> usize {
    const FILE: &[u8] = b"file:";
    let start = if path.starts_with(FILE) { FILE.len() } else { 0 };
    path.iter().rposition(|b| *b == b'/').map_or(start, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected names: what `qemu-img create -f vmdk` (10.0.2) makes.
    #[test]
    fn names() {
        let flat = |image: &str| Beside::Flat.name(image.as_bytes(), 1);
        for (image, name) in [
            ("disk.vmdk", "disk-flat.vmdk"),
            ("noext", "noext-flat"),
            ("a.b.vmdk", "a.b-flat.vmdk"),
            (".vmdk", "-flat.vmdk"),
            ("dir.x/foo", "dir.x/foo-flat"),
            ("/a/./x.vmdk", "/a/./x-flat.vmdk"),
            ("./c:d.vmdk", "./c:d-flat.vmdk"),
            ("file:c:d.vmdk", "file:c:d-flat.vmdk"),
            ("file:a.b:c", "file:a-flat.b:c"),
            ("x\\y.vmdk", "x\\y-flat.vmdk"),
        ] {
            assert_eq!(flat(image), name.as_bytes(), "{image}");
        }
        assert_eq!(Beside::SplitSparse.name(b"d.vmdk", 7), b"d-s007.vmdk");
        assert_eq!(Beside::SplitFlat.name(b"d.vmdk", 1000), b"d-f1000.vmdk");
    }

    #[test]
    fn numbers_are_bounded() {
        assert!(Beside::Flat.has(1) && !Beside::Flat.has(0) && !Beside::Flat.has(2));
        for kind in [Beside::SplitFlat, Beside::SplitSparse] {
            assert!(!kind.has(0) && kind.has(1) && kind.has(NUMBER_MAX) && !kind.has(NUMBER_MAX + 1));
        }
    }
}
