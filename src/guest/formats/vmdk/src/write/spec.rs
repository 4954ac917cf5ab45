//! What a new image is to be.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use instar_image::options::{boolean, of_file};
use instar_image::{CreateContext, Error, Result, Role};

use crate::layout::SECTOR;
use crate::text::cid_of;

/// The subformat whose grains are compressed.
const STREAM: &str = "streamOptimized";
/// The default.
pub const SPARSE: &str = "monolithicSparse";
/// Those of several files.
const SEVERAL: [&str; 3] = ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
const ADAPTERS: [&str; 4] = ["ide", "buslogic", "lsilogic", "legacyESX"];
/// Bytes of a grain.
pub const GRAIN: u64 = 128 * SECTOR;
/// Grains of a table.
pub const TABLE: u64 = 512;
/// Sectors of the descriptor.
pub const TEXT_SECTORS: u64 = 20;

/// See the module.
pub struct Spec {
    /// Bytes of the disk, in whole sectors.
    pub size: u64,
    /// Grains are compressed.
    pub packed: bool,
    /// Grains of zeroes need no place.
    pub zeroed_grain: bool,
    /// The parent's name and identity.
    pub parent: Option<(Vec<u8>, u32)>,
    /// The image's own name, without its folder.
    name: Vec<u8>,
    cid: u32,
    adapter: String,
    hardware: String,
    tools: String,
}

impl Spec {
    /// From what the user said.
    pub fn read(cx: &CreateContext<'_, '_>) -> Result<Self> {
        let options = cx.options;
        let flag = |name| options.get(name).map_or(Ok(false), |text| boolean(name, text));
        let invalid = |value: &str| Error::usage(format!("invalid parameter value: {value}"));
        let adapter = options.get("adapter_type").unwrap_or("ide");
        if !ADAPTERS.contains(&adapter) {
            return Err(invalid(adapter));
        }
        let subformat = options.get("subformat").unwrap_or(SPARSE);
        if SEVERAL.contains(&subformat) {
            return Err(Error::unsupported(format!("images of the subformat {subformat} are only read and changed"))
                .with_hint("instar writes monolithicSparse and streamOptimized"));
        }
        let packed = subformat == STREAM;
        if !packed && subformat != SPARSE {
            return Err(invalid(subformat));
        }
        of_file::check_preallocation(options)?;
        let (compat6, hardware) = (flag("compat6")?, options.get("hwversion").unwrap_or("undefined"));
        if compat6 && hardware != "undefined" {
            return Err(Error::usage("compat6 cannot be enabled with hwversion set"));
        }
        let hardware = match hardware {
            "undefined" if compat6 => "6",
            "undefined" => "4",
            given => given,
        };
        let [a, b, c, d, ..] = cx.machine.random_id();
        let name = cx.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
        let size = cx.size.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        let spec = Self {
            size,
            packed,
            zeroed_grain: flag("zeroed_grain")?,
            parent: parent(cx)?,
            name,
            cid: u32::from_le_bytes([a, b, c, d]),
            adapter: adapter.to_string(),
            hardware: hardware.to_string(),
            tools: options.get("toolsversion").unwrap_or("2147483647").to_string(),
        };
        // Places of tables are sectors of 32 bits.
        if size.div_ceil(GRAIN * TABLE) > u64::from(u32::MAX) >> 4 {
            return Err(Error::limit("File too large"));
        }
        Ok(spec)
    }

    /// Tables in each directory.
    pub const fn tables(&self) -> u64 {
        self.size.div_ceil(GRAIN).div_ceil(TABLE)
    }

    /// Bytes of a directory.
    pub const fn directory_len(&self) -> u64 {
        (self.tables() * 4).next_multiple_of(SECTOR)
    }

    /// Byte offset of the redundant directory (0) and of the other one (1); the tables follow each.
    pub const fn directory(&self, nth: u64) -> u64 {
        (1 + TEXT_SECTORS) * SECTOR + nth * (self.directory_len() + self.tables() * TABLE * 4)
    }

    /// Byte offset of the first grain.
    pub const fn data(&self) -> u64 {
        self.directory(2).next_multiple_of(GRAIN)
    }

    /// The descriptor, in all of its sectors.
    pub fn text(&self) -> Vec<u8> {
        let sectors = self.size / SECTOR;
        let heads: u64 = if self.adapter == "ide" { 16 } else { 255 };
        let kind = if self.packed { STREAM } else { SPARSE };
        let parent = self.parent.as_ref().map_or(u32::MAX, |(_, cid)| *cid);
        let mut text = format!(
            "# Disk DescriptorFile\nversion=1\nCID={:08x}\nparentCID={parent:08x}\ncreateType=\"{kind}\"\n",
            self.cid
        )
        .into_bytes();
        if let Some((name, _)) = &self.parent {
            text.extend_from_slice(b"parentFileNameHint=\"");
            text.extend_from_slice(name);
            text.extend_from_slice(b"\"");
        }
        text.extend_from_slice(format!("\n# Extent description\nRW {sectors} SPARSE \"").as_bytes());
        text.extend_from_slice(&self.name);
        let rest = format!(
            "\"\n\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\nddb.geometry.cylinders = \"{}\"\n\
             ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"{}\"\n\
             ddb.toolsVersion = \"{}\"\n",
            self.hardware,
            sectors / (heads * 63),
            self.adapter,
            self.tools,
        );
        text.extend_from_slice(rest.as_bytes());
        text.resize((TEXT_SECTORS * SECTOR) as usize, 0);
        text
    }
}

/// The backing file has to be a vmdk: its identity goes into the image.
fn parent(cx: &CreateContext<'_, '_>) -> Result<Option<(Vec<u8>, u32)>> {
    let Some(backing) = &cx.backing else { return Ok(None) };
    let device = match cx.parent {
        Some(device) => device,
        None => cx.machine.open_named(cx.device, &backing.name, Role::Backing, false)?,
    };
    if backing.format.as_deref().is_some_and(|format| format != "vmdk") {
        return Err(Error::usage("backing_file must be a vmdk image"));
    }
    Ok(Some((backing.name.clone(), cid_of(cx.machine.source(), device)?)))
}
