//! What the options mean, and where everything lies.

use alloc::format;
use alloc::string::String;

use instar_image::options::of_file;
use instar_image::values::{boolean, size};
use instar_image::{Backing, CreateContext, Error, FileOffset, Result, Version};

use crate::bat::Geometry;
use crate::layout::{ALIGNMENT, BLOCK_SIZES, CHUNK_SECTORS, SIZE_MAX};

/// Bytes of a logical sector.
pub const SECTOR: u64 = 512;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// Where the log is.
pub const LOG: FileOffset = FileOffset::new(ALIGNMENT);
/// Bytes of the metadata region, and of the room that QEMU leaves behind it.
const METADATA_LEN: u64 = ALIGNMENT;
const ROOM: u64 = 4 * ALIGNMENT;

/// A new disk. Offsets and lengths are in bytes.
#[derive(Clone, Debug)]
pub struct Spec {
    pub fixed: bool,
    pub size: u64,
    pub block: u64,
    pub log_len: u64,
    /// Blocks without data are marked as zeroes.
    pub zero: bool,
    /// The parent as it is to be named.
    pub parent: Option<String>,
}

/// The name of a parent, which has to be of the same format: the child does not say which it has.
pub fn parent_of(backing: &Backing) -> Result<String> {
    if backing.format.as_deref().is_some_and(|format| format != "vhdx") {
        return Err(Error::usage("The parent of a differencing VHDX must be a VHDX"));
    }
    Ok(String::from_utf8_lossy(&backing.name).into_owned())
}

impl Spec {
    /// From what the user said.
    pub fn read(cx: &CreateContext<'_, '_>) -> Result<Self> {
        let given = |name: &str| cx.options.get(name).map(|text| size(name, text)).transpose();
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
        if cx.size > SIZE_MAX {
            return Err(Error::usage("Image size too large; max of 64TB"));
        }
        let zero = cx.options.get("block_state_zero").map(|t| boolean("block_state_zero", t)).transpose()?;
        let log_len = given("log_size")?.unwrap_or(ALIGNMENT);
        if log_len == 0 {
            return Err(Error::usage("Log size must be a multiple of 1 MB"));
        }
        let log_len = log_len.checked_next_multiple_of(ALIGNMENT).filter(|len| *len <= u32::MAX.into());
        let log_len = log_len.ok_or_else(|| Error::usage("Log size must be smaller than 4 GB"))?;
        let block = match given("block_size")?.unwrap_or(0) {
            0 if cx.size > 32 * TIB => 64 << 20,
            0 if cx.size > 100 * GIB => 32 << 20,
            0 if cx.size > GIB => 16 << 20,
            0 => 8 << 20,
            block => block.min(*BLOCK_SIZES.end()).next_multiple_of(ALIGNMENT),
        };
        if !block.is_power_of_two() {
            return Err(Error::usage("Block size must be a power of two"));
        }
        of_file::check_preallocation(cx.options)?;
        let size = cx.size.next_multiple_of(SECTOR);
        if size == 0 && block == *BLOCK_SIZES.end() {
            // The table that QEMU wants to make is too large for itself.
            return Err(Error::usage("Failed to write the BAT: Input/output error"));
        }
        // Behind a parent, what is not there is the parent's.
        let zero = zero.unwrap_or(true) && parent.is_none();
        Ok(Self { fixed, size, block, log_len, zero, parent })
    }

    /// How blocks and entries go together.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            block: self.block,
            ratio: CHUNK_SECTORS * SECTOR / self.block,
            blocks: self.size.div_ceil(self.block),
            size: self.size,
            bat: LOG + self.log_len,
            differencing: self.parent.is_some(),
        }
    }

    /// Bytes of the table's region.
    pub fn bat_len(&self) -> u64 {
        (self.geometry().entries_of_region() * 8).next_multiple_of(ALIGNMENT).max(ALIGNMENT)
    }

    /// Where the metadata region is, and its length.
    pub fn metadata(&self) -> (FileOffset, u64) {
        (self.geometry().bat + self.bat_len(), METADATA_LEN)
    }

    /// Where the first block may be.
    pub fn data(&self) -> FileOffset {
        let (at, len) = self.metadata();
        at + len + ROOM
    }
}
