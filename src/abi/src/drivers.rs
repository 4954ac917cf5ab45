//! The drivers: what they are called, and what can be done with images of each format. The host has to know which of the
//! user's words names one, and tells the user what there is; what a driver does, only the guest knows, whose registry has a
//! test that these are its formats, and that those are written which it can write.

/// How far something can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// With all images.
    Whole,
    /// With some, or by some commands: which.
    Part(&'static str),
    /// Not at all.
    None,
}

use Reach::{Part, Whole};

/// A driver of images.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// What it is called.
    pub name: &'static str,
    /// What others call it. Not taken: the user is told the name.
    pub also: &'static [&'static str],
    /// New images are made.
    pub written: Reach,
    /// `commit`, `rebase` and `convert -n` change an image.
    pub in_place: Reach,
    /// `resize`.
    pub resized: Reach,
}

impl Format {
    /// Images of it are read, and nothing else.
    const fn read(name: &'static str) -> Self {
        Self { name, also: &[], written: Reach::None, in_place: Reach::None, resized: Reach::None }
    }

    /// Images of it are read, made, changed and resized.
    const fn whole(name: &'static str) -> Self {
        Self { written: Whole, in_place: Whole, resized: Whole, ..Self::read(name) }
    }

    const fn also(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }
}

/// Drivers of images: a row each.
pub const FORMATS: &[Format] = &[
    Format::whole("raw").also(&["img", "iso", "bin", "dd"]),
    Format::whole("qcow2"),
    Format { resized: Reach::None, ..Format::whole("qcow") }.also(&["qcow1"]),
    Format {
        written: Part("sparse, flat, split, streamOptimized"),
        in_place: Part("sparse, flat, split"),
        resized: Part("sparse"),
        ..Format::read("vmdk")
    },
    Format::whole("vpc").also(&["vhd"]),
    Format { resized: Part("not vhdx children"), ..Format::whole("vhdx") },
    Format::whole("vdi"),
    Format::whole("parallels").also(&["hdd", "hds"]),
    Format::whole("qed"),
    Format::read("dmg"),
    Format::read("bochs"),
    Format::read("cloop"),
    Format { in_place: Part("convert -n"), ..Format::whole("luks") },
];

/// Drivers of files.
pub const PROTOCOLS: &[&str] = &["file", "host_device", "host_cdrom"];

/// Whether a driver of images is called so.
#[must_use]
pub fn is_format(name: &str) -> bool {
    FORMATS.iter().any(|format| format.name == name)
}

/// Whether a driver of files is called so.
#[must_use]
pub fn is_protocol(name: &str) -> bool {
    PROTOCOLS.contains(&name)
}

/// What all drivers are called.
pub fn names() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|format| format.name).chain(PROTOCOLS.iter().copied())
}
