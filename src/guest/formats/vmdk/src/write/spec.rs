//! What a new image is to be.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use instar_image::machine::folder_len;
use instar_image::options::of_file;
use instar_image::values::boolean;
use instar_image::{Beside, CreateContext, Error, Result, Role};

use super::grains::{GRAIN, TABLE};
use crate::layout::SECTOR;
use crate::text::cid_of;

const ADAPTERS: [&str; 4] = ["ide", "buslogic", "lsilogic", "legacyESX"];
/// Sectors of the descriptor where it is in the same file as the grains.
pub const TEXT_SECTORS: u64 = 20;
/// Bytes of the disk in each file of a disk that is split.
pub const SPLIT: u64 = 2 << 30;

/// How the disk is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Subformat {
    /// In grains in one file.
    Sparse,
    /// In a plain file beside the descriptor.
    Flat,
    /// In grains in files of 2 GiB of the disk each.
    SplitSparse,
    /// In plain files of 2 GiB each.
    SplitFlat,
    /// In compressed grains in one file.
    Stream,
}

impl Subformat {
    const ALL: [Self; 5] = [Self::Sparse, Self::Flat, Self::SplitSparse, Self::SplitFlat, Self::Stream];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sparse => "monolithicSparse",
            Self::Flat => "monolithicFlat",
            Self::SplitSparse => "twoGbMaxExtentSparse",
            Self::SplitFlat => "twoGbMaxExtentFlat",
            Self::Stream => "streamOptimized",
        }
    }

    /// Bytes are not in grains.
    pub const fn is_flat(self) -> bool {
        matches!(self, Self::Flat | Self::SplitFlat)
    }

    /// Grains are compressed.
    pub const fn is_compressed(self) -> bool {
        matches!(self, Self::Stream)
    }

    /// What the files beside the descriptor are; `None`: the image is one file.
    pub const fn files(self) -> Option<Beside> {
        match self {
            Self::Flat => Some(Beside::Flat),
            Self::SplitSparse => Some(Beside::SplitSparse),
            Self::SplitFlat => Some(Beside::SplitFlat),
            Self::Sparse | Self::Stream => None,
        }
    }

    /// As an extent's line calls its kind, and what stands behind the file's name.
    const fn line(self) -> (&'static str, &'static str) {
        if self.is_flat() { ("FLAT", " 0") } else { ("SPARSE", "") }
    }
}

/// What the image is going to be.
pub struct Spec {
    /// Bytes of the disk, in whole sectors.
    pub size: u64,
    /// How it is stored.
    pub kind: Subformat,
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
        let subformat = options.get("subformat").unwrap_or(Subformat::Sparse.name());
        let kind = Subformat::ALL.into_iter().find(|kind| kind.name() == subformat);
        let kind = kind.ok_or_else(|| invalid(subformat))?;
        let backing_format = cx.backing.as_ref().and_then(|backing| backing.format.as_deref());
        if backing_format.or_else(|| cx.options.get("backing_fmt")).is_some_and(|format| format != "vmdk") {
            return Err(Error::usage("backing_file must be a vmdk image"));
        }
        let (compat6, hardware) = (flag("compat6")?, options.get("hwversion").unwrap_or("undefined"));
        if compat6 && hardware != "undefined" {
            return Err(Error::usage("compat6 cannot be enabled with hwversion set"));
        }
        let zeroed_grain = flag("zeroed_grain")?;
        if kind.is_flat() && cx.backing.is_some() {
            return Err(Error::unsupported("Flat image can't have backing file"));
        }
        if kind.is_flat() && zeroed_grain {
            return Err(Error::unsupported("Flat image can't enable zeroed grain"));
        }
        of_file::check_preallocation(options)?;
        let hardware = match hardware {
            "undefined" if compat6 => "6",
            "undefined" => "4",
            given => given,
        };
        let [a, b, c, d, ..] = cx.machine.random_id();
        let name = cx.name.get(folder_len(cx.name)..).unwrap_or_default().to_vec();
        if kind.files().is_some() && name.iter().any(|b| matches!(b, b'"' | b'\n' | b'\r')) {
            return Err(Error::usage("Invalid argument").with_hint("a vmdk cannot hold a name with such characters"));
        }
        let size = cx.size.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        let spec = Self {
            size,
            kind,
            zeroed_grain,
            parent: parent(cx)?,
            name,
            cid: u32::from_le_bytes([a, b, c, d]),
            adapter: adapter.to_string(),
            hardware: hardware.to_string(),
            tools: options.get("toolsversion").unwrap_or("2147483647").to_string(),
        };
        let too_large = Error::limit("File too large");
        match kind.files() {
            // Places of tables are sectors of 32 bits.
            None if size.div_ceil(GRAIN * TABLE) > u64::from(u32::MAX) >> 4 => Err(too_large),
            Some(Beside::Flat) if i64::try_from(size).is_err() => Err(too_large),
            Some(files @ (Beside::SplitFlat | Beside::SplitSparse)) if !files.has(size.div_ceil(SPLIT).max(1)) => {
                Err(too_large
                    .with_hint("a disk is split into 10000 files of 2 GiB at most; the other subformats take more"))
            }
            _ => Ok(spec),
        }
    }

    /// Bytes of the disk in each extent.
    pub fn lengths(&self) -> impl Iterator<Item = u64> {
        let (size, each) = match self.kind {
            Subformat::SplitSparse | Subformat::SplitFlat => (self.size, SPLIT),
            _ => (self.size, self.size.max(1)),
        };
        let count = if self.kind.files().is_some() { size.div_ceil(each) } else { 1 };
        (0..count).map(move |number| (size - number * each).min(each))
    }

    /// The name of extent `number`, as the descriptor has it.
    fn extent_name(&self, number: u64) -> Vec<u8> {
        self.kind.files().map_or_else(|| self.name.clone(), |files| files.name(&self.name, number))
    }

    /// The descriptor; in all of its sectors, where grains follow it.
    pub fn text(&self) -> Vec<u8> {
        let sectors = self.size / SECTOR;
        let heads: u64 = if self.adapter == "ide" { 16 } else { 255 };
        let parent = self.parent.as_ref().map_or(u32::MAX, |(_, cid)| *cid);
        let mut text = format!(
            "# Disk DescriptorFile\nversion=1\nCID={:x}\nparentCID={parent:x}\ncreateType=\"{}\"\n",
            self.cid,
            self.kind.name()
        )
        .into_bytes();
        if let Some((name, _)) = &self.parent {
            text.extend_from_slice(b"parentFileNameHint=\"");
            text.extend_from_slice(name);
            text.extend_from_slice(b"\"");
        }
        text.extend_from_slice(b"\n# Extent description\n");
        let (kind, end) = self.kind.line();
        for (number, len) in (1..).zip(self.lengths()) {
            text.extend_from_slice(format!("RW {} {kind} \"", len / SECTOR).as_bytes());
            text.extend_from_slice(&self.extent_name(number));
            text.extend_from_slice(format!("\"{end}\n").as_bytes());
        }
        let rest = format!(
            "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\nddb.geometry.cylinders = \"{}\"\n\
             ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"{}\"\n\
             ddb.toolsVersion = \"{}\"\n",
            self.hardware,
            sectors / (heads * 63),
            self.adapter,
            self.tools,
        );
        text.extend_from_slice(rest.as_bytes());
        if self.kind.files().is_none() {
            text.resize((TEXT_SECTORS * SECTOR) as usize, 0);
        }
        text
    }
}

/// The backing file's identity goes into the image.
fn parent(cx: &CreateContext<'_, '_>) -> Result<Option<(Vec<u8>, u32)>> {
    let Some(backing) = &cx.backing else { return Ok(None) };
    let device = match cx.parent {
        Some(device) => device,
        None => cx.machine.open_named(cx.device, &backing.name, Role::Backing, false)?,
    };
    Ok(Some((backing.name.clone(), cid_of(cx.machine.source(), device)?)))
}
