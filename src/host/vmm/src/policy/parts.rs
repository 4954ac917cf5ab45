//! How many further files may be written for an image, and of what kind. The command says it, before the guest runs.

use instar_abi::beside::NUMBER_MAX;
use instar_abi::ring::Role;

/// Files that the image on a device may name to have them written, each at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Files that hold the data of an image (qcow2).
    pub data_files: u32,
    /// Files that hold ranges of its disk (vmdk).
    pub extents: u32,
    /// Images of its chain that it is written down into (`commit`).
    pub bases: u32,
}

impl Parts {
    /// An image of one file.
    pub const NONE: Self = Self { data_files: 0, extents: 0, bases: 0 };
    /// It may have a data file.
    pub const DATA_FILE: Self = Self { data_files: 1, ..Self::NONE };
    /// It may have extents: as many as a new image may have of one kind.
    pub const EXTENTS: Self = Self { extents: NUMBER_MAX as u32, ..Self::NONE };
    /// What it is has to be found out.
    pub const ANY: Self = Self { data_files: Self::DATA_FILE.data_files, ..Self::EXTENTS };

    /// Those that an image of the format may have, by the name that the user gave.
    #[must_use]
    pub fn of_format(name: Option<&str>) -> Self {
        match name {
            None => Self::ANY,
            Some("qcow2") => Self::DATA_FILE,
            Some("vmdk") => Self::EXTENTS,
            Some(_) => Self::NONE,
        }
    }

    /// Those of an image that this one is written down into. Of what format that is, only this one says: it may have what
    /// this one may, and a data file.
    #[must_use]
    pub const fn of_base(self) -> Self {
        Self { data_files: 1, extents: self.extents, bases: 0 }
    }

    /// Those, and what another image may have besides that lies on the same device.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            data_files: self.data_files.saturating_add(other.data_files),
            extents: self.extents.saturating_add(other.extents),
            bases: self.bases.saturating_add(other.bases),
        }
    }

    /// How many are left of that kind.
    pub const fn left(&mut self, role: Role) -> &mut u32 {
        match role {
            Role::Backing => &mut self.bases,
            Role::DataFile => &mut self.data_files,
            Role::Extent => &mut self.extents,
        }
    }
}
