//! What an image is opened for.

use crate::{Error, Machine, Result};

/// What an image is opened for. Who may write is whoever holds a machine: what is only read cannot have one.
#[derive(Clone, Copy)]
pub enum Purpose<'a> {
    /// To say what it is: no byte of the disk, so no key, and no file that holds nothing but such bytes.
    Describe,
    /// To read the disk.
    Read,
    /// To change the disk, or its size.
    Write(&'a dyn Machine),
    /// To find out what a change of the disk would do: nothing is written.
    Rehearse(&'a dyn Machine),
    /// To change what the metadata say besides the disk: no byte of that.
    WriteMetadata(&'a dyn Machine),
    /// To look at the metadata, whatever is wrong with them.
    Check,
    /// To look at the metadata, and to put right what is wrong with them: nothing was put right before.
    Repair(&'a dyn Machine),
    /// To read whatever is left of the disk.
    Salvage,
}

impl<'a> Purpose<'a> {
    /// Bytes of the disk are wanted, and so keys and the files that hold them.
    #[must_use]
    pub const fn wants_data(self) -> bool {
        !matches!(self, Self::Describe | Self::WriteMetadata(_))
    }

    /// It is looked at whatever is wrong with it.
    #[must_use]
    pub const fn bears_damage(self) -> bool {
        matches!(self, Self::Check | Self::Repair(_) | Self::Salvage)
    }

    /// It is going to be written to.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write(_) | Self::WriteMetadata(_) | Self::Repair(_))
    }

    /// Its metadata are to be looked at: what is wrong with them is told of, and in nobody's way.
    #[must_use]
    pub const fn looks_at_metadata(self) -> bool {
        matches!(self, Self::Check | Self::Repair(_))
    }

    /// What it is changed through.
    pub fn machine(self) -> Result<&'a dyn Machine> {
        match self {
            Self::Write(machine) | Self::Rehearse(machine) | Self::WriteMetadata(machine) | Self::Repair(machine) => {
                Ok(machine)
            }
            _ => Err(Error::corrupt("an image that was opened to be read is to be written to")),
        }
    }
}
