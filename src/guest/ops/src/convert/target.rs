//! What is converted into: a new image, or with `-n` one that is there.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::quirk::{can_name, has, holds_bitmaps};
use instar_image::write::{Target, Writer};
use instar_image::{
    Backing, Changes, CreateContext, ENOTSUP, Error, Format, Kind, Machine, Purpose, Quirk, Result, Version,
};

use super::bitmaps;
use super::params::Params;
use crate::create::unknown_backing_format;
use crate::open::{ImageSpec, Opening};
use crate::option_help;

/// Disks are whole sectors of so many bytes.
const SECTOR: u64 = 512;

/// The option of `-o` that `-F` stands for.
const BACKING_FORMAT: &str = "backing_fmt";

/// The target.
pub enum Output<'a> {
    /// Is made.
    New(Box<dyn Writer + 'a>),
    /// The first image of the chain is written into.
    Existing(Chain<'a>),
}

/// What the images of an existing target's chain are opened for.
pub fn purpose<'a>(machine: &'a dyn Machine) -> impl Fn(usize, &[u8]) -> Purpose<'a> {
    move |depth, _| if depth == 0 { Purpose::Write(machine) } else { Purpose::Read }
}

impl<'a> Output<'a> {
    /// Takes the bytes.
    pub fn writer(&self) -> Result<&dyn Writer> {
        match self {
            Self::New(writer) => Ok(writer.as_ref()),
            Self::Existing(chain) => {
                let editor = chain.layers.first().and_then(|top| top.image.editor());
                editor.map(|editor| editor as &dyn Writer).ok_or_else(|| Error::corrupt("a target without an editor"))
            }
        }
    }

    /// Shows what the target holds, if it was there.
    pub const fn chain(&self) -> Option<&Chain<'a>> {
        match self {
            Self::New(_) => None,
            Self::Existing(chain) => Some(chain),
        }
    }

    /// `-n`: begins to change the target, as far as it could be opened.
    pub fn existing(opened: Result<Chain<'a>>, params: &Params, format: &dyn Format, size: u64) -> Result<Self> {
        let (target, name) = (&params.target, format.name());
        if params.shares_backing() && params.settings.zeroed {
            return Err(Error::usage("Cannot use --target-is-zero when the destination image has a backing file"));
        }
        let read_only =
            || Error::unsupported(format!("Format driver '{name}' does not support writing into an existing image"));
        if params.settings.compress && !has(format, Quirk::Compresses) {
            return Err(Error::usage("Compression not supported for this file format"));
        }
        let mut chain = opened.map_err(|e| target.could_not_open(e))?;
        let top = chain.layers.first_mut().ok_or_else(read_only)?;
        let changes = Changes { content: true, compressed: params.settings.compress, ..Changes::default() };
        top.image.begin(&changes).ok_or_else(read_only)?.map_err(|e| target.could_not_open(e))?;
        let editor = top.image.editor().ok_or_else(read_only)?;
        if params.settings.compress && editor.compressor().is_none() {
            return Err(Error::usage("Compression not supported for this file format"));
        }
        if top.image.virtual_size() < size {
            return Err(Error::usage("output file is smaller than input file"));
        }
        if params.bitmaps.is_some() && editor.bitmaps().is_none_or(|bitmaps| bitmaps.check_supported().is_err()) {
            return Err(bitmaps::unsupported(name));
        }
        Ok(Self::Existing(chain))
    }

    /// Makes a new image; also whether it stands on a backing file that the sources share.
    pub fn create(
        machine: &'a dyn Machine,
        params: &'a Params,
        format: &'static dyn Format,
        size: u64,
        version: Version,
    ) -> Result<(Self, bool)> {
        let name = format.name();
        let creator = option_help::creator_of(format)?;
        let texts: Vec<&str> = params.options.iter().map(String::as_str).collect();
        let mut options = option_help::parse(format, &texts, version)?;
        let backing = params.backing(&options);
        if params.bitmaps.is_some() && !holds_bitmaps(format, &options) {
            return Err(bitmaps::unsupported(name));
        }
        // The identity of the file that it stands on is recorded in an image of some formats.
        let parent = params.backing_image.as_ref().filter(|_| crate::create::makes_child(format, machine));
        let parent = parent.map(|image| image.device);
        if backing.is_some() && !has(format, Quirk::Backs) && parent.is_none() {
            return Err(Error::usage(format!("Backing file not supported for file format '{name}'")));
        }
        if let (None, Some(of)) = (&backing, &params.backing_format) {
            if !format.create_options().iter().any(|option| option.name == BACKING_FORMAT) {
                return Err(Error::usage(format!("Backing file format not supported for file format '{name}'")));
            }
            options.set(BACKING_FORMAT, of);
        }
        if params.settings.compress && !has(format, Quirk::Compresses) {
            return Err(Error::usage("Compression not supported for this file format"));
        }
        let encrypts = options.get("encryption").is_some_and(|v| v != "off") || options.get("encrypt.format").is_some();
        if params.settings.compress && encrypts {
            return Err(Error::usage("Compression and encryption not supported at the same time"));
        }
        if params.settings.compress && options.get("preallocation").is_some_and(|v| v != "off") {
            return Err(Error::usage("Compression and preallocation not supported at the same time"));
        }
        if let Some(Backing { format: None, .. }) = backing
            && version > Version::V5_2
        {
            return Err(Error::usage("Use of backing file requires explicit backing format"));
        }
        let shown = instar_image::machine::display_name(&params.target.name);
        let converting = if params.section.is_some() {
            format!("{shown}: error while creating output image")
        } else {
            format!("{shown}: error while converting {name}")
        };
        let named = backing.as_ref().map_or(params.backing_format.as_deref(), |backing| backing.format.as_deref());
        if let Some(other) = named
            && crate::open::format_by_name(other).is_err()
        {
            return Err(unknown_backing_format(format, other, version).context(converting));
        }
        let backed = backing.is_some();
        let cx = CreateContext {
            machine,
            device: params.target.device,
            name: &params.target.name,
            parent,
            data_device: params.data_device,
            // A part may end within a sector.
            size: if params.section.is_some() { size.next_multiple_of(SECTOR) } else { size },
            options: &options,
            backing,
            compressed: params.settings.compress,
            version,
        };
        let writer = match parent {
            Some(parent) => creator.create_child(cx, parent),
            None => creator.create(cx),
        };
        let writer = writer.map_err(|e| e.context(converting))?;
        // Compressed clusters are not put into a data file.
        if params.settings.compress && params.data_device.is_some() {
            return Err(Error::new(Kind::Io(ENOTSUP), "error while writing at byte 0: Operation not supported"));
        }
        if let Some(image) = params.backing_image.as_ref().filter(|_| backed) {
            // An image that cannot be read because of what it stands on is of no use. A format that the target cannot name is
            // found out by its readers.
            let named = |name: &String| can_name(format, name);
            let image = ImageSpec { format: image.format.clone().filter(named), ..image.clone() };
            let layers = Opening { machine, version }.chain(&image, &|_, _| Purpose::Describe);
            layers.map_err(|e| params.target.could_not_open(e.context("Could not open backing file")))?;
        }
        creator.can_be_filled(&options, size).map_err(|e| params.target.could_not_open(e))?;
        // What has no units has none to compress.
        if params.settings.compress && !matches!(writer.target(), Target::Allocated { .. }) {
            return Err(Error::usage("invalid cluster size"));
        }
        Ok((Self::New(writer), backed))
    }
}
