//! What the options mean.

use alloc::format;
use alloc::string::String;

use instar_image::values::boolean;
use instar_image::{Backing, CreateContext, Error, Result, Version};

use super::geometry::{self, Geometry, LARGEST};
use crate::layout::{MAX_GEOMETRY, MAX_SECTORS, SECTOR};

/// A new disk.
#[derive(Clone, Debug)]
pub struct Spec {
    pub fixed: bool,
    /// Size in bytes.
    pub size: u64,
    pub geometry: Geometry,
    /// Who made it: tells readers which of size and geometry counts.
    pub creator: [u8; 4],
    pub unique_id: [u8; 16],
    /// Seconds since the beginning of 2000.
    pub time: u32,
    /// The parent as it is to be named.
    pub parent: Option<String>,
}

/// The name of a parent, which has to be of the same format: the child does not say which it has.
pub fn parent_of(backing: &Backing) -> Result<String> {
    if backing.format.as_deref().is_some_and(|format| format != "vpc") {
        return Err(Error::usage("The parent of a differencing VHD must be a VHD"));
    }
    Ok(String::from_utf8_lossy(&backing.name).into_owned())
}

/// Seconds from 1970 to 2000.
const YEAR_2000: u64 = 946_684_800;

impl Spec {
    /// From what the user said.
    pub fn read(cx: &CreateContext<'_, '_>) -> Result<Self> {
        let parent = cx.backing.as_ref().map(parent_of).transpose()?;
        let fixed = match cx.options.get("subformat") {
            None | Some("dynamic") => false,
            Some("fixed") if parent.is_none() => true,
            Some("fixed") => return Err(Error::usage("A fixed disk cannot have a parent")),
            Some(other) if cx.version <= Version::V5_2 => {
                return Err(Error::usage(format!("Invalid parameter '{other}'")));
            }
            Some(other) => {
                return Err(Error::usage(format!("Parameter 'subformat' does not accept value '{other}'")));
            }
        };
        let exact = cx.options.get("force_size").map(|text| boolean("force_size", text)).transpose()?;
        // A child is as large as its parent, whatever its geometry.
        let exact = exact.unwrap_or(parent.is_some());
        let wanted = cx.size.div_ceil(SECTOR);
        let geometry = if exact { LARGEST } else { geometry::at_least(wanted) };
        let found = geometry::sectors(geometry);
        // What the largest geometry cannot tell is told by the size alone.
        let sectors = if found == MAX_GEOMETRY { wanted } else { found };
        if sectors > MAX_SECTORS {
            return Err(Error::limit("The image size is too large for file format 'vpc'"));
        }
        let since = cx.machine.now_seconds().saturating_sub(YEAR_2000);
        Ok(Self {
            fixed,
            size: sectors * SECTOR,
            geometry,
            creator: if exact { *b"qem2" } else { *b"qemu" },
            unique_id: cx.machine.random_id(),
            time: u32::try_from(since).unwrap_or(u32::MAX),
            parent,
        })
    }
}
